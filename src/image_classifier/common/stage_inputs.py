"""Detect changes to a stage's inputs while the stage runs, and hash the inputs.

DVC hashes a stage's dependencies after its command has run (treeverse/dvc issue 11058). If a
dependency was edited during the run, DVC would record the new hash with the old result.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from image_classifier.common.errors import InputError
from image_classifier.common.hashing import sha256_of
from image_classifier.common.params import PARAMS_FILE
from image_classifier.common.strict_yaml import read_yaml

PIPELINE = Path("dvc.yaml")
LOCK = Path("dvc.lock")  # hashes of the files and parameters with which each stage ran last
SOURCES = Path("src")  # all other dependencies are data
OUTPUTS = ("outs", "metrics", "plots")  # where dvc.yaml declares them


class StageInputs:
    """A snapshot of the dependencies and parameters that dvc.yaml declares for a stage."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        declared = read_yaml(PIPELINE)["stages"][stage]
        self.dependencies: list[str] = declared["deps"]
        self._params = declared["params"]
        self._known = self._look()

    def check_unchanged(self) -> None:
        """Check that nothing has changed since this object was created.

        Source files and parameters may be rewritten with the same content; data files may not be
        touched.

        Raises:
            InputError: naming the changed files and parameters.
        """
        found = self._look()
        changed = [
            value[1] if isinstance(value, tuple) else name
            for name, value in (self._known | found).items()
            if found.get(name) != self._known.get(name)
        ]
        if changed:
            raise InputError(
                f"{', '.join(changed)} changed while {self._stage} was running, so its result was "
                "discarded; run the stage again"
            )

    def identity(self, *paths: Path) -> str:
        """A hash of the sources, the parameters, and the content of files at or below `paths`."""
        # Without the declared data: parts may be missing where only a part of the training runs.
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
        """Name of a dependency or parameter -> a value that changes when it changes."""
        found: dict[str, object] = {}
        for path in map(Path, self.dependencies):
            if path.is_relative_to(SOURCES):
                for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
                    found[str(file)] = sha256_of(file) if file.is_file() else None
            else:  # data may be large: use the newest modification time, and the path with it
                found[str(path)] = max(_walk(path), default=None)
        try:
            values = read_yaml(PARAMS_FILE)
            for name in self._params:
                section, _, key = name.partition(".")
                part = {key: values[section][key]} if key else values[section]
                found |= {f"{section}.{key}": json.dumps(value) for key, value in part.items()}
        except (InputError, LookupError, TypeError, AttributeError):
            found[str(PARAMS_FILE)] = None  # invalid now, but it was valid when the stage began
        return found


def cached_outputs(pipeline: Path) -> Iterator[str]:
    """Paths of the outputs in a dvc.yaml that DVC keeps in its cache, instead of Git."""
    for stage in read_yaml(pipeline)["stages"].values():
        for output in chain.from_iterable(stage.get(kind, []) for kind in OUTPUTS):
            path, options = next(iter(output.items())) if isinstance(output, dict) else (output, {})
            if options.get("cache", True):
                yield path


def _walk(path: Path) -> Iterator[tuple[int, str]]:
    """Modification time (nanoseconds since 1970) and path of a file, or of a folder's whole tree.

    Adding or removing a file changes the modification time of its folder.
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
