"""What a stage reads: that it stays the same while the stage runs, and a hash of it.

DVC looks at a stage's dependencies after its command has run (treeverse/dvc issue 11058). Of one
that was edited meanwhile it would record the new hash, and serve the old result for it.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from image_classifier.common.errors import InputError
from image_classifier.common.hashing import sha256_of
from image_classifier.common.params import PARAMS_FILE
from image_classifier.common.strict_yaml import read_yaml

PIPELINE = Path("dvc.yaml")
SOURCES = Path("src")  # what else a stage depends on is data


class StageInputs:
    """The dependencies and parameters that dvc.yaml declares for a stage, as they are now."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        declared = read_yaml(PIPELINE)["stages"][stage]
        self._dependencies, self._params = declared["deps"], declared["params"]
        self._known = self._look()

    def check_unchanged(self) -> None:
        """Make sure that all is as it was when this object was made.

        Sources and parameters may have been written anew if they say the same; data may not.

        Raises:
            InputError: naming what has changed.
        """
        found = self._look()
        changed = [
            value[1] if isinstance(value, tuple) else name
            for name, value in (self._known | found).items()
            if found.get(name) != self._known.get(name)
        ]
        if changed:
            raise InputError(
                f"{', '.join(changed)} changed while {self._stage} was running; its result is not "
                "kept, as it belongs neither to the old state nor to the new one: run it again"
            )

    def identity(self, *paths: Path) -> str:
        """A hash of the sources, the parameters, and the content of files at or below `paths`."""
        # Not of data, which may be missing where only a part of the training runs.
        known = {key: value for key, value in self._known.items() if isinstance(value, str)}
        files = {
            file.as_posix(): sha256_of(file)
            for path in paths
            for file in sorted(path.rglob("*") if path.is_dir() else [path])
            if file.is_file()
        }
        content = json.dumps([known, files], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def _look(self) -> dict[str, object]:
        """Name of a dependency or parameter -> what it is known by."""
        found: dict[str, object] = {}
        for path in map(Path, self._dependencies):
            if path.is_relative_to(SOURCES):
                for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
                    found[str(file)] = sha256_of(file) if file.is_file() else None
            else:  # it may be large: known by when something in it was changed last, and what
                found[str(path)] = max(_walk(path), default=None)
        try:
            values = read_yaml(PARAMS_FILE)
            for name in self._params:
                section, _, key = name.partition(".")
                part = {key: values[section][key]} if key else values[section]
                found |= {f"{section}.{key}": json.dumps(value) for key, value in part.items()}
        except (InputError, LookupError, TypeError, AttributeError):
            found[str(PARAMS_FILE)] = None  # no valid file, as it was when the stage began
        return found


def _walk(path: Path) -> Iterator[tuple[int, str]]:
    """Time of change (nanoseconds since 1970) and path of a file, or of a folder and all below it.

    What is added, removed, or vanishes meanwhile has changed its folder.
    """
    with suppress(FileNotFoundError):
        yield path.stat().st_mtime_ns, str(path)
        if path.is_dir():
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir():
                        yield from _walk(Path(entry.path))
                    else:
                        yield entry.stat().st_mtime_ns, entry.path
