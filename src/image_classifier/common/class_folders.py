"""Find images in class folders, optionally below train/validation/test folders."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from image_classifier.common.errors import InputError

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}

# Extensions of the formats that are decoded. In class folders, files with any extension are used.
IMAGE_NAME = re.compile(
    r"[^.].*\.(apng|avif|bmp|gif|ico|j2k|jfif|jp[2ex]|jpe?g|p[bfgnp]m|png|tga|tiff?|webp)",
    re.DOTALL | re.IGNORECASE,
)


def find_class_folders(root: Path) -> dict[tuple[str, str], Path]:
    """Find the class folders below `root`, skipping wrapper folders with a single subfolder.

    Returns:
        (split, class name) -> folder, sorted; the split is "train", "validation", "test", or ""
        if the images are not split.

    Raises:
        InputError: if `root` does not exist, there are splits but no training split, or
            `check_classes` finds an error. The error also describes images that are left out.
    """
    if not root.is_dir():
        raise InputError(f"{root} not found; allowed: a folder with one subfolder per class")
    top = root
    while len(inner := _folders(top)) == 1 and _folders(inner[0]):
        top = inner[0]
    splits = _split_folders(top, inner)
    folders = {
        (split, folder.name): folder
        for split, parent in (splits or {"": top}).items()
        for folder in _folders(parent)
    }
    if splits and "train" not in splits:
        raise InputError(f"{top}: found {', '.join(splits)}, but no 'train' folder")
    try:
        check_classes(folders, top)
    except InputError as error:
        left_out = describe_left_out(top, folders.values())
        raise InputError(f"{error}; {left_out}" if left_out else str(error)) from None
    return dict(sorted(folders.items()))


def check_classes(found: Collection[tuple[str, str]], place: object) -> None:
    """Check that a dataset has at least two classes, and every class has training images.

    `found` has the pairs (split, class name) of `find_class_folders`; errors name `place`.

    Raises:
        InputError: if there are fewer than two classes, a class has no training images, or only
            some images have a split.
    """
    splits = {split for split, _ in found}
    if "" in splits and len(splits) > 1:
        raise InputError(
            f"{place}: found a split for only some images; allowed: for all images or for none"
        )
    classes = {name for split, name in found if split in ("train", "")}
    for split, name in found:
        if name not in classes:
            raise InputError(f"{place}: class {name!r} is in {split!r} but not in 'train'")
    if len(classes) < 2:
        raise InputError(
            f"{place}: found {len(classes)} class folders; allowed: two or more, each with images"
        )


def describe_left_out(root: Path, class_folders: Iterable[Path]) -> str:
    """A line about the images below `root` that are in none of its class folders, or "".

    They are recognized by their extensions; hidden files do not count.
    """
    above = {parent for folder in class_folders for parent in folder.parents}
    levels = {root, *(folder for folder in above if folder.is_relative_to(root))}
    beside = sorted(path for level in levels for path in level.iterdir())
    outside = [path for path in beside if _is_image(path) and path.is_file()]
    in_hidden = {
        path: images
        for path in beside
        if path.name.startswith(".") and path.is_dir()
        if (images := sum(map(_is_image, path.rglob("*"))))
    }
    parts = []
    if outside:
        images = _count(len(outside), "image")
        parts.append(f"{images} outside the class folders, such as {_name(outside[0], root)}")
    if in_hidden:
        images = _count(sum(in_hidden.values()), "image")
        folders = _count(len(in_hidden), "folder")
        name = _name(next(iter(in_hidden)), root)
        parts.append(f"{images} in {folders} whose name begins with a dot, such as {name}")
    return f"left out: {'; '.join(parts)}" if parts else ""


def find_files(folder: Path) -> list[Path]:
    """All files at any depth below a class folder, sorted, without hidden files."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(_hidden(part) for part in path.relative_to(folder).parts)
    )


def _split_folders(top: Path, folders: list[Path]) -> dict[str, Path]:
    """Split name -> folder, for folders named after a split that contain class folders."""
    splits = {
        SPLIT_NAMES[folder.name.lower()]: folder
        for folder in folders
        if folder.name.lower() in SPLIT_NAMES and _folders(folder)
    }
    if splits and len(splits) < len(folders):  # a folder is no split, or a split has two folders
        raise InputError(
            f"{top}: found {', '.join(folder.name for folder in folders)}; allowed beside "
            "train: one validation and one test folder, with class folders in each"
        )
    return splits


def _folders(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not _hidden(path.name) and not _leads_back(path)
    )


def _is_image(path: Path) -> bool:
    return bool(IMAGE_NAME.fullmatch(path.name))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _name(path: Path, root: Path) -> str:
    """The path below `root`, quoted, so that it prints in a line whatever its characters are."""
    return repr(path.relative_to(root).as_posix())


def _leads_back(path: Path) -> bool:
    """Whether `path` links to one of its own parents, so that every image would be found again."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
