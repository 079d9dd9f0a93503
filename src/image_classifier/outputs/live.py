"""DVCLive, adapted: a log for the results of each stage, and one for the use of the machine.

tests/test_private_names.py lists and checks the private names of DVCLive and DVC used here and
elsewhere.
"""

import math
import os
import time
from pathlib import Path
from threading import Event

from dvc.exceptions import DvcException
from dvc_render.html import render_html
from dvclive import Live, report
from dvclive.env import DVC_EXP_BASELINE_REV, DVC_ROOT
from dvclive.live import logger, mark_dvclive_only_ended
from dvclive.monitor_system import _SystemMonitor
from dvclive.plots import NumpyEncoder
from dvclive.serialize import dump_json
from dvclive.utils import catch_and_warn
from PIL import Image

from image_classifier.common.errors import InputError
from image_classifier.outputs.git import git, name_the_committer
from image_classifier.outputs.gpu_use import GpuUse
from image_classifier.outputs.report import TEMPLATES, charts, newest_images
from image_classifier.outputs.result_files import (
    empty_files,
    image_files,
    image_path,
    placeholder_images,
    write_files,
)

TRAIN_LOG, SYSTEM_LOG, EVALUATE_LOG = "dvclive/train", "dvclive/system", "dvclive/evaluate"
ACCURACY_FILE = "test_accuracy.json"  # in EVALUATE_LOG: the accuracy with its confidence interval
# DVC's own page loads Vega from the network; this one contains it. `dvc plots show` uses it too.
PAGE = TEMPLATES / "page.html"
REPORT_INTERVAL = 2  # seconds; an open report.html reloads itself every 5


class _Log(Live):
    """DVCLive without loading DVC in a stage of `dvc exp run`.

    There, DVC names the experiment, passes its settings on, and adds the stage's outputs to Git.
    """

    def _init_dvc(self) -> None:
        if DVC_EXP_BASELINE_REV in os.environ:
            self._inside_dvc_exp, self._save_dvc_exp = True, False
        else:
            super()._init_dvc()


class StageLog(_Log):
    """DVCLive for people who look at its files while it writes them.

    metrics.json is never seen half written; report.html opens without a network, and costs little
    when epochs are short. An image that an earlier run logged is a placeholder until it is logged
    again: DVC would show the earlier one, which dvc.lock lists, as one of this run.
    """

    _next_report = 0.0

    def __init__(
        self,
        stage_folder: str,
        folder: Path | None = None,
        save_stage: str | None = None,
        watched: bool = True,
    ) -> None:
        """
        Args:
            stage_folder: one stage's own, in which dvc.yaml declares plots.
            folder: log to this folder instead. Files of an earlier run in it are removed.
            save_stage: save a hidden Git experiment of this stage at the end, unless DVC runs the
                script: `dvc exp run` saves one itself, and `dvc repro` is not meant to.
            watched: whether somebody may look at the files before the end; otherwise only what is
                there at the end is written.
        """
        self.watched = watched
        folder = folder or Path(stage_folder)
        placeholders = placeholder_images(folder)
        self._stage_folder = stage_folder
        self._stage = save_stage
        save_experiment = save_stage is not None and DVC_ROOT not in os.environ
        if save_experiment:
            name_the_committer()
        # DVCLive would rewrite dvc.yaml, where plots, metrics and the model are declared by hand.
        super().__init__(folder, report="html", dvcyaml=False, save_dvc_exp=save_experiment)
        # DVC expects this output of the stage even if no image is logged.
        Path(self.plots_dir, "images").mkdir(parents=True, exist_ok=True)
        write_files({**empty_files(stage_folder), **placeholders}, folder)
        self._placeholders = set(placeholders)

    def log_metric(self, name: str, val: float, timestamp: bool = False, plot: bool = True) -> None:
        """As DVCLive's, rounded to as many digits as fit into a cell of a table."""
        super().log_metric(name, rounded(val), timestamp, plot)

    def log_image(self, name: str, val: Image.Image) -> None:
        super().log_image(name, val)
        self._placeholders.discard(image_path(name))

    def log_image_file(self, name: str, file: Path) -> None:
        """Log a copy of an image file; `log_image` would compress it again."""
        write_files({image_path(name): file.read_bytes()}, self.dir)
        self._placeholders.discard(image_path(name))

    def remove_image(self, name: str) -> None:
        """Delete an image that was logged."""
        Path(self.dir, image_path(name)).unlink(missing_ok=True)

    def logged_images(self) -> set[str]:
        """The names of all images logged so far."""
        paths = set(image_files(self.dir)) - self._placeholders
        return {path.relative_to(image_path(".")).as_posix() for path in paths}

    def make_summary(self) -> None:
        if self._step is not None:
            self.summary["step"] = self.step
        # In the same order after a resume, and best.* first.
        self.write_json("metrics.json", dict(sorted(self.summary.items())))

    def write_json(self, name: str, content: dict) -> None:
        """Write a file in the stage's folder, which nobody sees half written."""
        unfinished = Path(self.dir, f"{name}.unfinished")
        dump_json(content, unfinished, cls=NumpyEncoder)
        unfinished.replace(Path(self.dir, name))

    def make_report(self) -> None:
        """As DVCLive's, with the charts that dvc.yaml declares."""
        if self._inside_with and (not self.watched or time.monotonic() < self._next_report):
            return
        renderers = [
            *report.get_params_renderers(self.params_file),
            *report.get_metrics_renderers(self.metrics_file),
            *report.get_metrics_renderers(Path(self.dir, ACCURACY_FILE)),
            *charts(self._stage_folder, Path(self.dir)),
            *newest_images(Path(self.dir), self.logged_images()),
        ]
        render_html(renderers, self.report_file, html_template=PAGE, refresh_seconds=5)
        self._next_report = time.monotonic() + REPORT_INTERVAL

    @catch_and_warn(DvcException, logger, mark_dvclive_only_ended)
    def save_dvc_exp(self) -> None:
        """As DVCLive's, which would record all stages as up to date, even changed ones."""
        if self._save_dvc_exp:
            self._dvc_repo.experiments.save(
                targets=[self._stage],
                name=self._exp_name,
                include_untracked=self._include_untracked,
                force=True,
                message=self._exp_message,
            )

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        if kind:
            self._save_dvc_exp = False  # an incomplete run is no experiment
        else:
            for path in self._placeholders:
                Path(self.dir, path).unlink(missing_ok=True)
        super().__exit__(kind, error, traceback)


class SystemLog(_Log):
    """CPU, memory, disk and GPU use once a second, and the training speed.

    It is no output of a stage: it differs in every run, so every run would seem to change.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder, dvcyaml=False, save_dvc_exp=False)
        self.make_summary()
        write_files(empty_files(folder), folder)
        self._system_monitor = _Monitor(
            self, interval=0.05, num_samples=20, directories_to_monitor={"main": "/"}
        )

    @catch_and_warn(InputError, logger)
    def end(self) -> None:
        """As DVCLive's, which omits new files from the experiment of a project in a folder."""
        super().end()
        if self._inside_dvc_exp:
            git("add", "--", self.dir)


class _Monitor(_SystemMonitor):
    """DVCLive's thread, with the same files for any number of GPUs.

    By itself it reads nothing on a machine without an NVIDIA driver, and otherwise writes files for
    each GPU, which are new on another machine and so would be in no hidden experiment.
    """

    def __init__(self, live: Live, **options: object) -> None:
        self._ended = Event()
        super().__init__(live, **options)

    def end(self) -> None:
        super().end()
        self._ended.wait()  # until it has written its last sample

    def _monitoring_loop(self) -> None:
        try:
            self._gpu_use = GpuUse()
            super()._monitoring_loop()
        finally:
            self._ended.set()

    def _get_gpu_info(self) -> dict[str, float]:
        return self._gpu_use.read()


def rounded(value: float) -> float:
    """To 6 decimals, or to 4 significant digits where these are more accurate: 0.00001234."""
    if not math.isfinite(value):
        return value
    return min(round(value, 6), float(f"{value:.4g}"), key=lambda choice: abs(choice - value))
