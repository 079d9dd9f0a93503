"""Pictures as people keep them: a folder for each class, perhaps train/validation/test above."""

from collections.abc import Collection
from pathlib import Path

from image_classifier.errors import InputError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def find_class_folders(root: Path) -> dict[tuple[str, str], Path]:
    """Find the class folders below `root`, past folders that hold one other and perhaps a readme.

    Returns:
        (split, class name) -> folder, sorted; the split is "train", "validation", "test", or ""
        where the pictures are not split.

    Raises:
        InputError: if there is no `root`, if there are fewer than two classes, or splits without
            one to train on.
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
    """Make sure that a dataset has classes to tell apart, and pictures to train on of each.

    Args:
        found: split and class name of all pictures, as `find_class_folders` gives them.
        place: what the error names.

    Raises:
        InputError: if it has not.
    """
    splits = {split for split, _ in found}
    if "" in splits and len(splits) > 1:
        raise InputError(f"{place}: found a split for some pictures; allowed: for all, or for none")
    classes = {name for split, name in found if split in ("train", "")}
    for split, name in found:
        if name not in classes:
            raise InputError(f"{place}: class {name!r} is in {split!r} and not in 'train'")
    if len(classes) < 2:
        raise InputError(
            f"{place}: found {len(classes)} class folders; allowed: two or more, each with pictures"
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
    if not any(SPLIT_NAMES.get(folder.name.lower()) and _folders(folder) for folder in folders):
        return {}
    splits: dict[str, Path] = {}
    for folder in folders:
        split = SPLIT_NAMES.get(folder.name.lower())
        if split is None or split in splits or not _folders(folder):
            raise InputError(
                f"{top}: found {', '.join(folder.name for folder in folders)}; allowed beside "
                "train: one validation and one test folder, with class folders in each"
            )
        splits[split] = folder
    return splits


def _folders(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not _hidden(path.name) and not _leads_back(path)
    )


def _leads_back(path: Path) -> bool:
    """Whether it is a link to a folder that it lies in: all pictures would be in it again."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
