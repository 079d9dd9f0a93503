"""Replace a stage's result files so that readers never see outdated ones, or none.

DVC reports an error for a declared plot or metric whose file is missing, and shows images that
dvc.lock lists beside those in the folder. So results of an earlier run are not deleted while new
ones are computed: empty files and placeholder images take their place.

Files may be links into DVC's cache. So they are replaced, never written to.
"""

import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw

from image_classifier.common.disk import enough_space, scratch_folder
from image_classifier.common.stage_inputs import LOCK, PIPELINE, cached_outputs
from image_classifier.common.strict_yaml import read_yaml
from image_classifier.outputs.sheets import font

SCRATCH = Path(".dvc/tmp/logging")
SET_ASIDE = Path(".dvc/tmp/set_aside")
CACHE = Path(".dvc/cache")  # unless DVC is configured to use another one
NO_METRICS = b"{}\n"

_read_once = cache(read_yaml)  # a report is made after each epoch


def restore_outputs(stage: str) -> None:
    """Put back the outputs that DVC has deleted before it started this stage, as copies.

    So the last model stays until the next one is complete, and plots can be looked at meanwhile.
    `persist: true` in dvc.yaml would have DVC keep them, but then it fails if an output is a link
    to a file that is no longer in the cache. Where `set_aside` has emptied the results, images
    come back as placeholders.

    Raises:
        NoSpaceError: if there is no room for them.
    """
    if "DVC_ROOT" not in os.environ:
        return
    folder = Path("dvclive", stage)
    metrics, images = folder / "metrics.json", folder / image_path(".")
    emptied = metrics.is_file() and not _has_values(metrics)
    for path, output in _recorded_outputs(stage).items():
        unwanted = emptied and path.is_relative_to(folder) and path != images
        if not unwanted and not os.path.lexists(path):
            with enough_space(path, output["size"]):
                _copy_from_cache(output["md5"], path)
    if emptied:
        _empty(folder)


@contextmanager
def replacing(folder: str) -> Iterator[Path]:
    """Yield an empty folder whose files replace those of `folder` when the block succeeds.

    Until then, and if the block fails, the old files stay. Git's ignore files stay in any case:
    DVC keeps them.

    Raises:
        NoSpaceError: if there is no room for as many bytes as the old files have.
    """
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    with enough_space(Path(folder), size), scratch_folder(SCRATCH) as scratch:
        yield scratch
        _move_files(scratch, Path(folder))


@contextmanager
def set_aside(folder: str) -> Iterator[None]:
    """Empty a stage's results while the block replaces the model that they were computed with.

    If the block fails, they are put back. If the process is killed, they are kept until the next
    such block, which puts them back if it fails.
    """
    results, kept = Path(folder), SET_ASIDE / folder
    if _has_values(results / "metrics.json"):
        unfinished = SET_ASIDE / "unfinished"
        for path in (unfinished, kept):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(results, unfinished, symlinks=True, copy_function=_link)
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished.rename(kept)
    _empty(results)
    try:
        yield
    except BaseException:
        if kept.exists():
            _move_files(kept, results)
        raise
    finally:
        shutil.rmtree(kept, ignore_errors=True)


def empty_files(folder: str | Path) -> dict[Path, bytes]:
    """The metrics and plots that dvc.yaml declares in a stage's folder, without values.

    Returns:
        Path below the folder -> content; a TSV file has the header that DVCLive writes.
    """
    empty = {}
    for stage in _read_once(PIPELINE.absolute())["stages"].values():
        for metrics in stage.get("metrics", []):
            empty |= dict.fromkeys(metrics, NO_METRICS)
    for plot in declared_plots().values():
        for name, column in plot["y"].items():
            header = "\t".join(dict.fromkeys((plot["x"], "step", column))) + os.linesep
            empty[name] = header.encode() if name.endswith(".tsv") else b"[]\n"
    declared = {Path(name): content for name, content in empty.items()}
    return {
        path.relative_to(folder): content
        for path, content in declared.items()
        if path.is_relative_to(folder)
    }


def declared_plots() -> dict[str, dict]:
    """Name -> definition of the charts in dvc.yaml, in their order."""
    plots = _read_once(PIPELINE.absolute())["plots"]
    return {
        name: chart for entry in plots if isinstance(entry, dict) for name, chart in entry.items()
    }


def image_path(name: str) -> Path:
    """The path below a stage's folder of an image that was logged under a name."""
    return Path("plots/images", name)


def image_files(folder: str | Path) -> list[Path]:
    """The paths below a stage's folder of all images in it, and of links to missing files."""
    paths = sorted(Path(folder, image_path(".")).rglob("*"))
    return [
        path.relative_to(folder) for path in paths if path.suffix in Image.registered_extensions()
    ]


def placeholder_images(folder: str | Path) -> dict[Path, bytes]:
    """Path below a stage's folder -> a grey image of the same size and format as the one there."""
    return {path: _placeholder(Path(folder, path)) for path in image_files(folder)}


def write_files(contents: dict[Path, bytes], folder: str | Path) -> None:
    """Write files below a folder, and the folders above them."""
    for name, content in contents.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _placeholder(path: Path) -> bytes:
    try:
        with Image.open(path) as image:
            width, height = image.size
    except OSError:  # a link to a file that is gone
        width, height = 640, 480
    image = Image.new("RGB", (width, height), "#eeeeee")
    draw, middle = ImageDraw.Draw(image), (width / 2, height / 2)
    draw.text(middle, "not reached yet", "#555555", font(max(1, width // 16)), anchor="mm")
    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[path.suffix])
    return buffer.getvalue()


def _empty(folder: Path) -> None:
    with scratch_folder(SCRATCH) as scratch:
        write_files({**empty_files(folder), **placeholder_images(folder)}, scratch)
        _move_files(scratch, folder)


def _recorded_outputs(stage: str) -> dict[Path, dict]:
    """Path -> entry in dvc.lock of the outputs that DVC keeps in its cache."""
    if not LOCK.exists():
        return {}
    cached, recorded = set(cached_outputs(PIPELINE)), read_yaml(LOCK)["stages"].get(stage, {})
    outputs = recorded.get("outs", [])
    return {Path(output["path"]): output for output in outputs if output["path"] in cached}


def _copy_from_cache(md5: str, output: Path) -> None:
    """Copy an output, complete at once, from DVC's cache; or nothing if a part is missing there.

    DVC itself would take longer to load than this takes.
    """
    source = _cached_file(md5)
    files, is_folder = {"": source}, md5.endswith(".dir")
    if is_folder and source.is_file():
        entries = json.loads(source.read_bytes())
        files = {entry["relpath"]: _cached_file(entry["md5"]) for entry in entries}
    if not source.is_file() or not all(file.is_file() for file in files.values()):
        return
    with scratch_folder(SCRATCH) as scratch:
        unfinished = scratch / output.name
        if is_folder:
            unfinished.mkdir()
        for name, file in files.items():
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, unfinished / name)
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(unfinished, output)  # `models` may be on another disk


def _cached_file(md5: str) -> Path:
    name = Path("files/md5", md5[:2], md5[2:])
    return CACHE / name if (CACHE / name).is_file() else _configured_cache() / name


@cache
def _configured_cache() -> Path:
    from dvc.repo import Repo  # imported here: it takes a while, and few caches are configured

    with Repo() as repo:
        return Path(repo.cache.local_cache_dir)


def _move_files(source: Path, folder: Path) -> None:
    """Move the files below `source` into `folder`, and remove others but Git's ignore files."""
    names = {path.relative_to(source) for path in source.rglob("*") if not path.is_dir()}
    for name in sorted(names):  # metrics.json first: it tells whether results are set aside
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).replace(folder / name)
    for path in folder.rglob("*"):
        kept = path.is_dir() or path.name == ".gitignore" or path.relative_to(folder) in names
        if not kept:
            path.unlink()


def _link(source: str, target: str) -> None:
    """Give a file a second name. It needs no space, and results are replaced, never written to."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target, follow_symlinks=False)


def _has_values(metrics: Path) -> bool:
    return metrics.is_file() and metrics.read_bytes() != NO_METRICS
