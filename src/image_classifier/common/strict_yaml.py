"""YAML files with fixed keys: read with care, and all that is wrong in one is said at once."""

import difflib
import json
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from image_classifier.common.errors import InputError

# With more, a few lines could stand for billions of values, and deep nesting ends ruamel.yaml's
# parser, which is written in C, with a segmentation fault.
MOST_ALIASES = 20
DEEPEST = 20
LONGEST = 2_000  # characters of a value; from 4,300 digits on, Python takes no text for a number

Location = tuple[str | int, ...]
"""The keys that lead to a value, as in pydantic's errors."""


class Contradiction(NamedTuple):
    """Values that are allowed alone and not together."""

    line: str  # for the user
    of: Collection[str] = ()  # names such as train.epochs of those values that a sweep may vary


class Section(BaseModel):
    """A section of a file: no key is added, and no type is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def contradictions(self) -> Iterator[Contradiction]:
        """Find values of this section that contradict each other; each of them is right alone."""
        yield from ()

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> "Section":
        if found := list(self.contradictions()):
            raise PydanticCustomError("contradiction", "contradiction", {"found": found})
        return self


def read_yaml(path: Path) -> object:
    """Read a YAML file of plain values.

    It is read with ruamel.yaml because DVC reads it so: `1e-3` is a number to both, while YAML 1.1
    readers (PyYAML) take it for text.

    Raises:
        InputError: if it cannot be read, or is more than that.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: not found in {Path.cwd()}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        found = error.object[error.start]
        raise InputError(
            f"{path}: found byte 0x{found:02x} at position {error.start}; allowed: text in UTF-8"
        ) from None
    try:
        _refuse_all_but_plain_values(text)
        return YAML(typ="safe").load(text)
    except MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        reason = f"{place}{error.context or ''} {error.problem}"
    except (YAMLError, ValueError, OverflowError) as error:  # the latter of dates
        reason = str(error)
    raise InputError(f"{path}: not valid YAML: {' '.join(reason.split())}")


def _refuse_all_but_plain_values(text: str) -> None:
    depth = aliases = 0
    for event in YAML(typ="safe").parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        aliases += isinstance(event, AliasEvent)
        tag = getattr(event, "tag", None)
        length = len(event.value) if isinstance(event, ScalarEvent) else 0
        if tag is not None:
            reason = f"found the tag {shown(tag)}; allowed: values without tags"
        elif length > LONGEST:
            reason = f"found a value of {length:,} characters; allowed: {LONGEST:,}"
        elif depth > DEEPEST:
            reason = f"found brackets or sections {depth} deep; allowed: {DEEPEST}"
        elif aliases > MOST_ALIASES:
            reason = f"found more than {MOST_ALIASES} aliases (*); allowed: values themselves"
        else:
            continue
        raise ValueError(f"line {event.start_mark.line + 1}: {reason}")


def refusal(path: Path, reasons: Sequence[str]) -> InputError:
    """The error that tells what is wrong in a file, a line for each of the `reasons`."""
    return InputError("\n       ".join(f"{path}: {reason}" for reason in reasons))


def explain(
    error: ValidationError, section: type[Section], varying: Collection[str] = ()
) -> list[str]:
    """A line for each thing that pydantic found wrong with a file of which `section` is the whole.

    It names the key, what was found, and what is allowed. A key that stands for a missing one, by
    its spelling or its place, is one mistake: the other is not called missing as well. The values
    named in `varying` contradict nothing, as they take others in turn.
    """
    root = section.model_json_schema()
    errors = error.errors(include_url=False)
    missing = {details["loc"] for details in errors if details["type"] == "missing"}
    meant = set()
    lines = {}
    for details in errors:
        location = details["loc"]
        if details["type"] in ("extra_forbidden", "invalid_key"):
            hint, place = _explain_unknown(location, root, missing)
            meant.add(place)
            # Of a key that is no text, pydantic's location has the text of it.
            key = details["input"] if details["type"] == "invalid_key" else location[-1]
            lines[f"{dotted([*location[:-1], key])}: unknown; {hint}"] = location
        elif details["type"] == "contradiction":
            for contradiction in details["ctx"]["found"]:
                if not set(contradiction.of) & set(varying):
                    lines[contradiction.line] = location
        else:
            lines[_explain_value(details, root)] = location
    # Of a value that may be of several types, pydantic has an error for each: one key of `lines`.
    return [line for line, location in lines.items() if location not in missing & meant]


def _explain_value(details: Mapping, root: dict) -> str:
    location, schema = _find(details["loc"], root)
    name = dotted(location) or "the file"
    if details["loc"][-1:] == ("[key]",) and details["type"] == "string_type":
        return f"{name}: unknown; allowed: text"
    if details["type"] == "missing":
        return f"{name}: missing; allowed: {words(schema)}"
    if details["type"] == "value_error":  # of a validator, which says all
        return f"{name}: {details['msg'].removeprefix('Value error, ')}"
    near = nearest(details["input"], schema.get("enum", []))
    allowed = f"did you mean {near!r}?" if near else f"allowed: {words(schema)}"
    return f"{name}: found {shown(details['input'])}; {allowed}"


def _explain_unknown(
    location: Location, root: dict, missing: Container[Location]
) -> tuple[str, Location | None]:
    """What is said of a key that is not allowed, and the key that it stands for, if that is sure.

    It stands for a `missing` one rather than for one that is there.
    """
    *section, key = location
    _, schema = _find(section, root)
    if key in root["properties"]:
        return "it belongs to the top level", (key,)
    others = [
        name for name in root["properties"] if key in _find([name], root)[1].get("properties", [])
    ]
    if others := [name for name in others if (name, key) in missing] or others:
        place = (others[0], key) if len(others) == 1 else None
        return f"it belongs to {' or '.join(others)}", place
    names = list(schema["properties"])
    lacking = [name for name in names if (*section, name) in missing]
    if near := nearest(key, lacking) or nearest(key, names):
        return f"did you mean {near!r}?", (*section, near)
    return f"allowed: {', '.join(names)}", None


def _find(location: Iterable, root: dict) -> tuple[Location, dict]:
    """A location without an end such as a type of several or a place in a list, and its schema."""
    found, schema = [], root
    for key in location:
        inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
        if not inner:
            break
        found.append(key)
        schema = root["$defs"][inner["$ref"].rpartition("/")[2]] if "$ref" in inner else inner
    return tuple(found), schema


def words(schema: dict) -> str:
    """What a JSON schema allows, in words: "a whole number, 1 to 1,000"."""
    if "description" in schema and schema.get("type") != "object":
        return schema["description"]
    if "anyOf" in schema:
        return ", or ".join(map(words, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(schema["enum"])
    kinds = {
        "object": "a section of key: value lines",
        "array": "a list",
        "null": "null",
        "boolean": "true or false",
        "integer": "a whole number",
        "number": "a number",
        "string": "text",
    }
    return ", ".join(filter(None, [kinds[schema["type"]], bounds(schema)]))


def bounds(schema: dict) -> str:
    """The range that a JSON schema allows, in words: "1 to 1,000" or "above 0, at most 10"."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f"{low:,} to {high:,}"
    parts = {"{:,} or more": low, "above {:,}": above, "at most {:,}": high, "below {:,}": below}
    return ", ".join(part.format(bound) for part, bound in parts.items() if bound is not None)


def nearest(name: object, allowed: Iterable[str]) -> str | None:
    """The one of the `allowed` names that is most like a name, if any is; case is nothing."""
    plain = {_plain(candidate): candidate for candidate in allowed}
    near = difflib.get_close_matches(_plain(name), plain, n=1)
    return plain[near[0]] if near else None


def _plain(name: object) -> str:
    return shown(name).lower().replace("_", "").replace("-", "").strip("'\"")


def dotted(location: Iterable) -> str:
    """A name such as train.epochs; a key that is no plain text is shown as `shown` does."""
    return ".".join(
        key if isinstance(key, str) and key.isprintable() and len(key) <= 60 else shown(key)
        for key in location
    )


def shown(value: object) -> str:
    """A value nearly as in the file, on one line, and not too long."""
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, (list, tuple, set)):
        return "a list"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
