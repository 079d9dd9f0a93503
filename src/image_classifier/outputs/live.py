"""DVCLive, adapted: a log for each stage's results, and one for what the machine was doing.

The private names of DVCLive and DVC that are used here and elsewhere are listed, and checked, in
tests/test_private_names.py.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from operator import attrgetter
from pathlib import Path
from threading import Event

from dvc.exceptions import DvcException
from dvc_render.html import render_html
from dvc_render.image import ImageRenderer
from dvclive import Live, report
from dvclive.env import DVC_ROOT
from dvclive.live import logger, mark_dvclive_only_ended
from dvclive.monitor_system import NVMLError, _SystemMonitor
from dvclive.plots import NumpyEncoder
from dvclive.serialize import dump_json
from dvclive.utils import catch_and_warn
from ruamel.yaml import YAML

from image_classifier.common.disk import enough_space, scratch_folder
from image_classifier.outputs.git import name_the_committer

TRAIN_LOG, SYSTEM_LOG, EVALUATE_LOG = "dvclive/train", "dvclive/system", "dvclive/evaluate"
# DVC's own page loads Vega from the network; this one carries it. `dvc plots show` uses it too.
PAGE = Path(".dvc/plots/page.html")
REPORT_INTERVAL = 2  # seconds; an open report.html looks for a newer one every 5


class StageLog(Live):
    """DVCLive for those who look at its files while it writes them.

    metrics.json is never seen half written; report.html opens without a network, and costs little
    when epochs are short.
    """

    _next_report = 0.0

    def __init__(self, folder: str | Path, save_stage: str | None = None) -> None:
        """
        Args:
            folder: one stage's own; what an earlier run logged there is removed.
            save_stage: save a hidden Git experiment of this stage at the end, unless DVC runs the
                script: `dvc exp run` saves one itself, and `dvc repro` is not meant to.
        """
        self._stage = save_stage
        save_experiment = save_stage is not None and DVC_ROOT not in os.environ
        if save_experiment:
            name_the_committer()
        # DVCLive would rewrite dvc.yaml, where plots, metrics and the model are declared by hand.
        super().__init__(folder, report="html", dvcyaml=False, save_dvc_exp=save_experiment)
        # DVC expects this output of the stage even if no image is logged.
        Path(self.plots_dir, "images").mkdir(parents=True, exist_ok=True)
        _begin_plots(self)

    def make_summary(self) -> None:
        if self._step is not None:
            self.summary["step"] = self.step
        unfinished = Path(f"{self.metrics_file}.unfinished")
        dump_json(self.summary, unfinished, cls=NumpyEncoder)
        unfinished.replace(self.metrics_file)

    def make_report(self) -> None:
        """As DVCLive's, with plots by name (the disk may list their files in any order)."""
        if self._inside_with and time.monotonic() < self._next_report:
            return
        plots = Path(self.plots_dir)
        sections = [
            report.get_params_renderers(self.params_file),
            report.get_metrics_renderers(self.metrics_file),
            report.get_scalar_renderers(plots / "metrics"),
            newest_images(report.get_image_renderers(plots / "images")),
            report.get_sklearn_plot_renderers(plots / "sklearn", self),
            report.get_custom_plot_renderers(plots / "custom", self),
        ]
        renderers = []
        for section in sections:
            renderers += sorted(section, key=attrgetter("name"))
        render_html(renderers, self.report_file, html_template=PAGE, refresh_seconds=5)
        self._next_report = time.monotonic() + REPORT_INTERVAL

    @catch_and_warn(DvcException, logger, mark_dvclive_only_ended)
    def save_dvc_exp(self) -> None:
        """As DVCLive's, which would record every stage as up to date, whatever has changed."""
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
            self._save_dvc_exp = False  # what is not complete is no experiment
        super().__exit__(kind, error, traceback)


class SystemLog(Live):
    """CPU, memory, disk and GPU use, once a second, and how fast the epochs are.

    They are no output of a stage: two runs never have the same, and would seem to differ.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder, dvcyaml=False, save_dvc_exp=False)
        _begin_plots(self)
        self._system_monitor = _Monitor(
            self, interval=0.05, num_samples=20, directories_to_monitor={"main": "/"}
        )


class _Monitor(_SystemMonitor):
    """DVCLive's thread, which would read nothing at all on a machine without an NVIDIA driver."""

    _has_gpu = True

    def __init__(self, live: Live, **options: object) -> None:
        self._ended = Event()
        super().__init__(live, **options)

    def end(self) -> None:
        super().end()
        self._ended.wait()  # it still writes a sample

    def _monitoring_loop(self) -> None:
        try:
            super()._monitoring_loop()
        finally:
            self._ended.set()

    def _get_gpu_info(self) -> dict[str, float]:
        try:
            return super()._get_gpu_info() if self._has_gpu else {}
        except NVMLError:
            self._has_gpu = False
            return {}


@contextmanager
def replacing(folder: str) -> Iterator[Path]:
    """Give an empty folder whose files replace those of `folder` when the block ends well.

    Whoever looks meanwhile sees either the old files or the new ones, and if the block fails the
    old ones stay. Git's ignore files stay in any case: DVC keeps them.

    Raises:
        NoSpaceError: if there is no room for as much as the old files have.
    """
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    with (
        enough_space(Path(folder), size),
        scratch_folder(Path(".dvc/tmp/logging")) as scratch,
    ):
        yield scratch
        Path(folder).mkdir(parents=True, exist_ok=True)
        names = {path.relative_to(scratch) for path in scratch.rglob("*")}
        for name in sorted(names):
            source, target = scratch / name, folder / name
            if source.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                source.replace(target)
        for path in files:
            if path.name != ".gitignore" and path.relative_to(folder) not in names:
                path.unlink()


def newest_images(images: list[ImageRenderer]) -> list[ImageRenderer]:
    """Of a series, named by its steps in one folder, only the last: a report embeds them all."""
    newest: dict[Path, ImageRenderer] = {}
    for renderer in images:
        path = Path(renderer.name)
        series = path.parent if path.stem.isdigit() else path
        if series not in newest or int(Path(newest[series].name).stem) < int(path.stem):
            newest[series] = renderer
    return list(newest.values())


def _begin_plots(live: Live) -> None:
    """Write metrics and plots without values, so that `dvc plots diff` finds all that dvc.yaml has.

    It reports files that are missing as errors, and so would DVC's extension for VS Code until the
    end of the first epoch.
    """
    live.make_summary()
    for path, columns in _declared_tables().items():
        if path.is_relative_to(live.dir):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\t".join(columns) + os.linesep, newline="")


@cache
def _declared_tables() -> dict[Path, list[str]]:
    """The TSV files that dvc.yaml declares as plots, and the columns that DVCLive gives them."""
    plots = YAML(typ="safe").load(Path("dvc.yaml"))["plots"]
    definitions = [plot for entry in plots if isinstance(entry, dict) for plot in entry.values()]
    return {
        Path(name): list(dict.fromkeys((plot["x"], "step", column)))
        for plot in definitions
        for name, column in plot["y"].items()
        if name.endswith(".tsv")
    }
