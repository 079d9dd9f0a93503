"""Fill templates of HTML pages, and write them: one file that opens without a network."""

import json
from contextlib import suppress
from pathlib import Path

from image_classifier.common.errors import InputError

MAX_BYTES = 9_500_000  # of a page
SHARED = ("shared.css", "shared.js")


def read_template(path: Path) -> str:
    """The template of a page, with the style and the script that all pages share."""
    template = path.read_text(encoding="utf-8")
    for name in SHARED:
        shared = Path(__file__).with_name(name).read_text(encoding="utf-8")
        template = template.replace(f"{{{{{name}}}}}", shared.strip())
    return template


def to_json(data: object) -> str:
    """JSON that is safe inside a <script> element, whatever text it contains."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", r"\u003c")


def write_output(path: Path, text: str) -> None:
    """Write the file that `--output` names; an existing one stays until the new one is complete.

    Raises:
        InputError: if it cannot be written.
    """
    unfinished = path.parent / f".{path.name}.unfinished"
    try:
        unfinished.write_text(text, encoding="utf-8", newline="")
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise InputError(f"--output: {path} cannot be written: {error.strerror}") from None
