"""The charts and images of report.html, as `dvc plots show` renders them."""

import csv
import json
from pathlib import Path

from dvc.render.converter.vega import VegaConverter
from dvc_render import ImageRenderer, VegaRenderer
from dvclive import report

from image_classifier.outputs.result_files import declared_plots, image_path

TEMPLATES = Path(".dvc/plots")


def charts(stage_folder: str, folder: Path) -> list[VegaRenderer]:
    """The plots that dvc.yaml declares in a stage's folder, in their order, except empty ones.

    `folder` has the stage's files while it runs.
    """
    renderers = []
    for name, definition in declared_plots().items():
        columns = {
            path: column
            for path, column in definition["y"].items()
            if Path(path).is_relative_to(stage_folder)
        }
        contents = {path: _read(folder / Path(path).relative_to(stage_folder)) for path in columns}
        if columns and all(contents.values()):
            converter = VegaConverter(name, contents, {**definition, "y": columns})
            points, properties = converter.flat_datapoints("workspace")
            renderers.append(VegaRenderer(points, name, template_dir=TEMPLATES, **properties))
    return renderers


def newest_images(folder: Path, logged: set[str]) -> list[ImageRenderer]:
    """The images logged in a folder. Of a series, named by step, only the last: all are embedded.

    `logged` are the names of images that are no placeholders.
    """
    newest: dict[Path, ImageRenderer] = {}
    for renderer in report.get_image_renderers(folder / image_path(".")):
        path = Path(renderer.name)
        series = path.parent if path.stem.isdigit() else path
        if path.as_posix() not in logged:
            continue
        if series not in newest or int(Path(newest[series].name).stem) < int(path.stem):
            newest[series] = renderer
    return sorted(newest.values(), key=lambda renderer: renderer.name)


def _read(path: Path) -> list | dict:
    if not path.exists():
        return []
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))
