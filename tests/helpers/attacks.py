"""Files that were made to do harm: they would make a folder, or read another file."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import h5py

from helpers.fault_table import faulty

REFUSED = "refused in one line, nothing is executed"


def refused(what: str, *values: object) -> object:
    """A case of a parametrized test that does harm."""
    return faulty("Security", what, REFUSED, *values)


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


def code_that_makes(folder: Path) -> Callable:
    """A function for a Lambda layer that makes a folder when it is called."""
    return eval(f"lambda x: __import__('os').makedirs({str(folder)!r}, exist_ok=True) or x")


def change_weights(file: Path | BinaryIO, change: Callable[[h5py.File, str], None]) -> None:
    """Have `change` replace an array of a file of weights, which it is named."""
    with h5py.File(file, "r+") as weights:
        names = []
        weights.visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
        )
        change(weights, names[0])


def external_array(weights: h5py.File, name: str) -> None:
    """Put an array in its place that is read out of another file."""
    shape, dtype = weights[name].shape, weights[name].dtype
    del weights[name]
    secret = [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    weights.create_dataset(name, shape, dtype, external=secret)


def external_link(weights: h5py.File, name: str) -> None:
    """Put a link to another file in its place."""
    del weights[name]
    weights[name] = h5py.ExternalLink("/tmp/other.h5", "secret")
