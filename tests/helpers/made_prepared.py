"""data/prepared without the stage that makes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from image_classifier.computing.prepared import (
    PREPARED,
    SPLITS,
    TABLE,
    ImageRecord,
    create_array,
    write_table,
)


def write_prepared(
    records: Sequence[ImageRecord], arrays: Mapping[str, np.ndarray], root: Path = Path()
) -> None:
    """Write the table and the arrays (views, n, ...) of all splits below a project's folder."""
    folder = root / PREPARED
    folder.mkdir(parents=True, exist_ok=True)
    write_table(records, root / TABLE)
    for split in SPLITS:
        values = arrays[split]
        create_array(folder, split, values.shape, values.dtype)(0, values)
