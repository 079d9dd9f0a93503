"""DVCLive, set up for this repository."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

from dvc_render.base import Renderer
from dvc_render.image import ImageRenderer
from dvclive import Live, monitor_system, report
from dvclive.env import DVC_ROOT
from dvclive.plots import NumpyEncoder
from dvclive.serialize import dump_json
from ruamel.yaml import YAML

from image_classifier.disk import enough_space, scratch_folder
from image_classifier.git import name_the_committer

# DVC's own page loads Vega from the network; this one carries it. `dvc plots show` uses it too.
PAGE = Path(".dvc/plots/page.html")
_all_images = report.get_image_renderers
_PLOT_FINDERS = {
    name: getattr(report, name)
    for name in ("get_scalar_renderers", "get_sklearn_plot_renderers", "get_custom_plot_renderers")
}
REPORT_INTERVAL = 2  # seconds; an open report.html looks for a newer one every 5


class LiveWithReport(Live):
    """DVCLive for those who look at its files while it writes them.

    metrics.json is never seen half written, and report.html costs little when epochs are short.
    """

    _next_report = 0.0

    def make_summary(self) -> None:
        if self._step is not None:
            self.summary["step"] = self.step
        unfinished = Path(f"{self.metrics_file}.unfinished")
        dump_json(self.summary, unfinished, cls=NumpyEncoder)
        unfinished.replace(self.metrics_file)

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        if kind:
            self._save_dvc_exp = False  # what is not complete is no experiment
        super().__exit__(kind, error, traceback)

    def make_report(self) -> None:
        if self._inside_with and time.monotonic() < self._next_report:
            return
        super().make_report()
        self._next_report = time.monotonic() + REPORT_INTERVAL


def open_live(folder: str, save_stage: str | None = None) -> Live:
    """A logger that writes below `folder`, with a report.html that opens without a network.

    Args:
        folder: one stage's own; what an earlier run logged there is removed.
        save_stage: save a hidden Git experiment of this stage at the end, unless DVC runs the
            script: `dvc exp run` saves one itself, and `dvc repro` is not meant to.
    """
    save_experiment = save_stage is not None and DVC_ROOT not in os.environ
    if save_experiment:
        name_the_committer()
    report.render_html = partial(report.render_html, html_template=PAGE)
    report.get_image_renderers = _newest_images
    for name, find in _PLOT_FINDERS.items():
        setattr(report, name, partial(_in_order, find))
    # DVCLive would rewrite dvc.yaml, where plots, metrics and the model are declared by hand.
    live = LiveWithReport(folder, report="html", dvcyaml=False, save_dvc_exp=save_experiment)
    if save_experiment and live._dvc_repo:
        # DVCLive would record every stage as up to date, also those whose parameters have changed.
        experiments = live._dvc_repo.experiments
        experiments.save = partial(experiments.save, targets=[save_stage])
    # DVC expects this output of the stage even if no image is logged.
    Path(live.plots_dir, "images").mkdir(parents=True, exist_ok=True)
    _begin_plots(live)
    return live


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


def open_system_monitor(folder: str) -> Live:
    """Log CPU, memory, disk and GPU use once a second below `folder`.

    They are no output of a stage: two runs never have the same, and would seem to differ.
    """
    # Without an NVIDIA driver DVCLive fails at each sample before it reads CPU and memory.
    monitor_system.GPU_AVAILABLE = _has_nvidia_driver()
    live = Live(folder, dvcyaml=False, save_dvc_exp=False)
    _begin_plots(live)
    live.monitor_system()
    return live


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


def _in_order(find: Callable[..., list[Renderer]], *arguments: object) -> list[Renderer]:
    """The plots of the report by name: the disk may have their files in any order."""
    return sorted(find(*arguments), key=lambda renderer: renderer.name)


def _newest_images(folder: Path) -> list[ImageRenderer]:
    """The images of the report; of a series, named by its steps in one folder, only the last.

    DVCLive embeds them all, anew at each step.
    """
    newest: dict[Path, ImageRenderer] = {}
    for renderer in _in_order(_all_images, folder):
        path = Path(renderer.name)
        series = path.parent if path.stem.isdigit() else path
        if series not in newest or int(Path(newest[series].name).stem) < int(path.stem):
            newest[series] = renderer
    return list(newest.values())


def _has_nvidia_driver() -> bool:
    try:
        monitor_system.nvmlInit()
    except monitor_system.NVMLError:
        return False
    monitor_system.nvmlShutdown()
    return True
