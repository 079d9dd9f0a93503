"""The charts and images of report.html, as `dvc plots show` renders them."""

import base64
import csv
import json
from pathlib import Path

from dvc.render.converter.vega import VegaConverter
from dvc_render import ImageRenderer, VegaRenderer

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
    newest: dict[Path, Path] = {}
    for path in map(Path, logged):
        series = path.parent if path.stem.isdigit() else path
        if series not in newest or int(newest[series].stem) < int(path.stem):
            newest[series] = path
    return [_embed(folder, str(path)) for path in sorted(newest.values(), key=str)]


def _embed(folder: Path, name: str) -> ImageRenderer:
    content = base64.b64encode((folder / image_path(name)).read_bytes()).decode()
    url = f"data:image;base64,{content}"
    return ImageRenderer([{ImageRenderer.SRC_FIELD: url, ImageRenderer.TITLE_FIELD: name}], name)


def _read(path: Path) -> list | dict:
    if not path.exists():
        return []
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))
