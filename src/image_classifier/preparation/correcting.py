"""Find the images that corrections of labels change."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from image_classifier.common.raw_data import RAW_DATA, RawImage
from image_classifier.common.strict_yaml import nearest, refusal, shown
from image_classifier.computing.corrections import Correction

MOST_REASONS = 20  # a file for another dataset would give thousands


class Changes(NamedTuple):
    """The effect of corrections."""

    corrections: list[Correction]  # those that change an image, each with an image's present path
    relabelled: int  # number of images, as is `excluded`
    excluded: int


def find_changes(
    file: str | None,
    corrections: Sequence[Correction],
    images: Sequence[RawImage],
    hashes: Sequence[str | None],
) -> Changes:
    """Find the images that have another class, or are left out, because of corrections.

    Args:
        file: has the corrections, and is named in errors; None if there are none.
        corrections: at most one for each content.
        images: all images of the dataset.
        hashes: sha256 of each image in hexadecimal; None if it cannot be decoded.

    Raises:
        InputError: with a line for each correction of an unknown image or to an unknown class, at
            most 20.
    """
    class_names = sorted({image.class_name for image in images})
    if reasons := list(_reasons(corrections, set(hashes), class_names)):
        more = len(reasons) - MOST_REASONS
        rest = [f"{more:,} more corrections cannot be applied"] if more > 0 else []
        raise refusal(Path(file), [*reasons[:MOST_REASONS], *rest])

    corrected = {correction.sha256: correction.class_name for correction in corrections}
    paths: dict[str, str] = {}
    relabelled = excluded = 0
    for image, sha256 in zip(images, hashes, strict=True):
        class_name = corrected.get(sha256, image.class_name)
        if class_name != image.class_name:
            paths.setdefault(sha256, image.path)
            relabelled += bool(class_name)
            excluded += not class_name
    applied = [
        correction._replace(path=paths[correction.sha256])
        for correction in corrections
        if correction.sha256 in paths
    ]
    return Changes(applied, relabelled, excluded)


def _reasons(
    corrections: Sequence[Correction], known: set[str | None], class_names: Sequence[str]
) -> Iterator[str]:
    """A line for each correction that cannot be applied."""
    for sha256, path, class_name in corrections:
        if sha256 not in known:
            yield (
                f"{path!r}: found the sha256 {sha256}; allowed: that of an image in {RAW_DATA} "
                "(remove the line if the image was removed)"
            )
        elif class_name and class_name not in class_names:
            near = nearest(class_name, class_names)
            names = ", ".join(class_names[:MOST_REASONS])
            more = ", ..." if len(class_names) > MOST_REASONS else ""
            allowed = f"did you mean {near!r}?" if near else f"allowed: {names}{more}, or no class"
            yield f"{path!r}: found the class {shown(class_name)}; {allowed}"
