"""Images as people keep them: a folder for each class, perhaps train/validation/test above."""

from collections.abc import Collection
from pathlib import Path

from image_classifier.common.errors import InputError

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def find_class_folders(root: Path) -> dict[tuple[str, str], Path]:
    """Find the class folders below `root`, past folders that hold one other and perhaps a readme.

    Returns:
        (split, class name) -> folder, sorted; the split is "train", "validation", "test", or ""
        where the images are not split.

    Raises:
        InputError: if there is no `root`, there are splits but none to train on, or as
            `check_classes` does.
    """
    if not root.is_dir():
        raise InputError(f"{root} not found; allowed: a folder with a folder for each class")
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
        raise InputError(f"{top}: found {', '.join(splits)}; a 'train' folder must stand beside")
    check_classes(folders, top)
    return dict(sorted(folders.items()))


def check_classes(found: Collection[tuple[str, str]], place: object) -> None:
    """Make sure that a dataset has classes to tell apart, and images to train on of each.

    `found` has (split, class name) as `find_class_folders` gives them; errors name `place`.

    Raises:
        InputError: if there are fewer than two classes, one has no images to train on, or only
            some images are in a split.
    """
    splits = {split for split, _ in found}
    if "" in splits and len(splits) > 1:
        raise InputError(f"{place}: found a split for some images; allowed: for all, or for none")
    classes = {name for split, name in found if split in ("train", "")}
    for split, name in found:
        if name not in classes:
            raise InputError(f"{place}: class {name!r} is in {split!r} and not in 'train'")
    if len(classes) < 2:
        raise InputError(
            f"{place}: found {len(classes)} class folders; allowed: two or more, each with images"
        )


def find_files(folder: Path) -> list[Path]:
    """All files at any depth below a class folder, sorted; hidden ones are passed over."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(_hidden(part) for part in path.relative_to(folder).parts)
    )


def _split_folders(top: Path, folders: list[Path]) -> dict[str, Path]:
    """Split name -> folder, if a folder is named after a split and holds class folders."""
    splits = {
        SPLIT_NAMES[folder.name.lower()]: folder
        for folder in folders
        if folder.name.lower() in SPLIT_NAMES and _folders(folder)
    }
    if splits and len(splits) < len(folders):  # one is no split, or two are the same
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


def _leads_back(path: Path) -> bool:
    """Whether it is a link to a folder that it lies in: all images would be in it again."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
