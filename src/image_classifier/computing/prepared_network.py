"""Write and read the network in data/prepared, if the backbone is frozen.

    network.json   what the network is, see `PreparedNetwork`
    network.keras  from pixels to probabilities, with an untrained classifier
    network.xml    its feature extractor, translated to OpenVINO; the weights are in network.bin

No training parameter changes the backbone, so it is built, saved and translated once.
"""

import json
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from image_classifier.common.errors import InputError
from image_classifier.common.params import Params
from image_classifier.computing.prepared import PREPARED

RECORD = PREPARED / "network.json"
KERAS_NETWORK = PREPARED / "network.keras"
EXTRACTOR = PREPARED / "network.xml"


class PreparedNetwork(NamedTuple):
    """The parameters of the network that computed the features, and how much these may differ."""

    backbone: str
    weights: str
    image_size: int
    color_mode: str
    # The largest allowed distance of features from the prepared ones, relative to their norm.
    feature_tolerance: float


def describe_network(params: Params, feature_tolerance: float) -> PreparedNetwork:
    """The record of a network of these parameters."""
    model, prepare = params.model, params.prepare
    return PreparedNetwork(
        model.backbone, model.weights, prepare.image_size, prepare.color_mode, feature_tolerance
    )


def write_record(network: PreparedNetwork, folder: Path) -> None:
    """Write `network.json`."""
    text = json.dumps(network._asdict(), indent=2)
    (folder / RECORD.name).write_text(f"{text}\n", encoding="utf-8")


def read_record() -> PreparedNetwork:
    """Read `network.json`.

    Raises:
        InputError: if it is missing or damaged.
    """
    try:
        values = json.loads(RECORD.read_text(encoding="utf-8"))
        return TypeAdapter(PreparedNetwork).validate_python(values, strict=True)
    except FileNotFoundError:
        raise InputError(
            f"{RECORD} not found; `dvc exp run` or src/prepare.py creates it"
        ) from None
    except ValueError:  # also of pydantic
        raise InputError(
            f"{RECORD} is damaged; `dvc exp run` or src/prepare.py creates it again"
        ) from None


def check_network(params: Params) -> None:
    """Check that the prepared network is the one that `params` describe.

    Raises:
        InputError: if it is not, because parameters have changed since it was prepared, or a file
            is missing.
    """
    record = read_record()
    expected = describe_network(params, record.feature_tolerance)
    for name, found, wanted in zip(record._fields, record, expected, strict=True):
        if found != wanted:
            raise InputError(
                f"data/prepared: found features of {name} {found}, but params.yaml has {wanted}; "
                "run `dvc exp run` to make them match"
            )
    for file in (KERAS_NETWORK, EXTRACTOR):  # are read at the end of a training
        if not file.is_file():
            raise InputError(f"{file} not found; `dvc exp run` or src/prepare.py creates it")
