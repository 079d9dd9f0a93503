"""Faults of YAML files, drawn by Hypothesis from what their keys allow."""

import datetime
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from ruamel.yaml import YAML

# What it finds out about this machine goes where pytest keeps such things.
set_hypothesis_home_dir(Path(__file__).parents[2] / ".pytest_cache/hypothesis")

# Many more when all faults are counted.
EXAMPLES = pytest.mark.parametrize("examples", [5, pytest.param(50, marks=pytest.mark.exhaustive)])
NOT_WHOLE = [0.5, 1.0, -0.0, 1e300, float("inf"), float("nan"), True]
DATE = datetime.date(2026, 1, 1)
ODD = ["", "fast", "yes", "0x", "1,5", [], [1], {}, {"a": 1}, [[None]], DATE]  # right nowhere
# Pieces that mean something in YAML, or nearly do.
PIECES = (
    *("&a ", "*a", "<<: *a", "!!int ", "!!bool x", "!!python/object/apply:os.abort []", "!", "%"),
    *("- ", "? ", ": ", "{", "}", "[", "]", ", ", "'", '"', "|", ">", "#", "\n---\n", "\n...\n"),
    *("\t", "\0", "\x7f", "\ufeff", "\u2028", "\ud800", "\r", "\n", "\n  ", "~", "null", "=", "`"),
    *("%YAML 1.1\n---\n", "2026-13-01", "0001-01-01T00:00:00+10:00", "0x" + "f" * 1999, "9" * 4500),
    *("1e400", ".nan", "-.inf", "1_000", "0o9", "1:30:00", "é", "[" * 1000, "*b", "\\u0000"),
)


def quick(examples: int) -> settings:
    """The same examples each time, and nothing left behind."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def keys_of(schema: dict) -> Iterator[tuple[tuple[str, ...], dict]]:
    """Location and JSON schema of each key of a file; those of sections after their section."""
    for name, inner in schema["properties"].items():
        if "$ref" not in inner:
            yield (name,), inner
            continue
        section = schema["$defs"][inner["$ref"].rpartition("/")[2]]
        for key, value in section["properties"].items():
            yield (name, key), value


def types_of(schema: dict) -> list[dict]:
    return schema.get("anyOf", [schema])


def right(schema: dict) -> st.SearchStrategy:
    """Values that a key allows."""
    return st.one_of(map(_right, types_of(schema)))


def _right(schema: dict) -> st.SearchStrategy:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "string":
        if "64" in schema["pattern"]:
            return st.text("0123456789abcdef", min_size=64, max_size=64)
        return st.text(string.printable[:95] + "é漢", min_size=1)
    if schema["type"] == "number":
        return st.floats(
            low if above is None else above,
            high if below is None else below,
            exclude_min=above is not None,
            exclude_max=below is not None,
        )
    kinds = {"null": st.none(), "boolean": st.booleans(), "integer": st.integers(low, high)}
    return kinds[schema["type"]]


def of_wrong_type(schema: dict) -> st.SearchStrategy:
    """Values of a type that a key does not allow, null apart."""
    types = {inner["type"] for inner in types_of(schema)}
    values = [value for value in ODD if not isinstance(value, str)]
    if "string" not in types:
        values += [value for value in ODD if isinstance(value, str)]
    if not types & {"integer", "number"}:
        values += [0, 1, -1, 10**30, 0.5, float("nan")]
    if "integer" in types:
        values += NOT_WHOLE
    if "boolean" not in types:
        values += [True, False]
    return st.sampled_from(values)


def out_of_range(schema: dict) -> st.SearchStrategy | None:
    """Values of a type that a key allows, beyond what it allows; None if there is none."""
    (schema,) = [inner for inner in types_of(schema) if inner["type"] != "null"]
    if schema["type"] == "boolean":
        return None
    if "enum" in schema:
        return st.text(string.ascii_letters).filter(lambda text: text not in schema["enum"])
    if schema["type"] == "string":
        return st.sampled_from(["", "two\nlines", "\x07", "a\0"])
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if schema["type"] == "integer":
        return st.integers(max_value=low - 1) | st.integers(min_value=high + 1)
    odd = st.sampled_from([float("nan"), float("inf"), -float("inf"), 10**400])
    if "exclusiveMinimum" in schema:
        odd |= st.sampled_from([0, 0.0, -0.0])
    return (
        odd
        | st.floats(max_value=low, exclude_max=True)
        | st.floats(min_value=high, exclude_min="maximum" in schema)
    )


def misspelt(key: str) -> st.SearchStrategy[str]:
    """Names that are nearly the name of a key."""
    return st.one_of(
        st.just(key.upper()),
        st.builds(
            lambda place, letter: key[:place] + letter + key[place:],
            st.integers(0, len(key)),
            st.sampled_from(string.ascii_lowercase),
        ),
    )


def damaged(text: str) -> st.SearchStrategy[str]:
    """A text with some pieces of it left out, and others put in."""
    place = st.integers(0, len(text))
    edit = st.tuples(place, st.integers(0, 40), st.sampled_from(PIECES) | st.text(max_size=5))

    def apply(edits: list[tuple[int, int, str]]) -> str:
        changed = text
        for start, length, piece in edits:
            changed = changed[:start] + piece + changed[start + length :]
        return changed

    return st.lists(edit, min_size=1, max_size=4).map(apply)


def write_yaml(values: object, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(values, file)


def reasons_in(message: str, path: Path) -> list[str]:
    """The lines of an error, without the name of the file that each begins with."""
    reasons = []
    for line in message.split("\n"):
        assert line.strip().isprintable() and line.strip().startswith(f"{path}: ")
        reasons.append(line.strip().removeprefix(f"{path}: "))
    return reasons


def check_reasons(reasons: list[str], starts: list[str]) -> None:
    """Check that there is one reason with each start, and no other."""
    assert len(reasons) == len(starts), reasons
    for start in starts:
        assert len([reason for reason in reasons if reason.startswith(start)]) == 1, reasons


def check_starts(reasons: list[str], starts: list[str]) -> None:
    """Check that there are as many reasons, each with its start."""
    for reason, start in zip(reasons, starts, strict=True):
        assert reason.startswith(start), reasons
