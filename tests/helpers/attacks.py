"""Malicious files: they would create a folder or read another file."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import h5py

from helpers.fault_table import faulty

REFUSED = "refused with a one-line error, nothing is executed"


def refused(what: str, *values: object) -> object:
    """A malicious case of a parametrized test."""
    return faulty("Security", what, REFUSED, *values)


class Attack:
    """Creates a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


def code_that_makes(folder: Path) -> Callable:
    """A function for a Lambda layer that creates a folder when it is called."""
    return eval(f"lambda x: __import__('os').makedirs({str(folder)!r}, exist_ok=True) or x")


def change_weights(file: Path | BinaryIO, change: Callable[[h5py.File, str], None]) -> None:
    """Call `change` with a weights file and the name of an array in it."""
    with h5py.File(file, "r+") as weights:
        names = []
        weights.visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
        )
        change(weights, names[0])


def external_array(weights: h5py.File, name: str) -> None:
    """Replace an array by one whose data is read from another file."""
    shape, dtype = weights[name].shape, weights[name].dtype
    del weights[name]
    secret = [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    weights.create_dataset(name, shape, dtype, external=secret)


def external_link(weights: h5py.File, name: str) -> None:
    """Replace an array by a link to another file."""
    del weights[name]
    weights[name] = h5py.ExternalLink("/tmp/other.h5", "secret")
