"""Read YAML files with fixed keys safely, and report all mistakes in a file at once."""

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

# With more aliases, a few lines could expand to billions of values; deep nesting crashes
# ruamel.yaml's C parser with a segmentation fault.
MOST_ALIASES = 20
DEEPEST = 20
LONGEST = 2_000  # characters of a value; Python refuses to parse numbers above 4,300 digits

Location = tuple[str | int, ...]
"""The keys that lead to a value, as in pydantic's errors."""


class Contradiction(NamedTuple):
    """Values that are each allowed, but not together."""

    line: str  # the message for the user
    of: Collection[str] = ()  # the values involved that a sweep may vary, such as train.epochs


class Section(BaseModel):
    """A section of a file: unknown keys are errors, and types are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def contradictions(self) -> Iterator[Contradiction]:
        """Find valid values of this section that contradict each other."""
        yield from ()

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> "Section":
        if found := list(self.contradictions()):
            raise PydanticCustomError("contradiction", "contradiction", {"found": found})
        return self


def read_yaml(path: Path) -> object:
    """Read a YAML file of plain values.

    ruamel.yaml is used because DVC uses it: both read `1e-3` as a number, whereas YAML 1.1 readers
    (PyYAML) read it as text.

    Raises:
        InputError: if the file cannot be read, or contains anything but plain values.
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
            f"{path}: found byte 0x{found:02x} at position {error.start}; allowed: UTF-8 text"
        ) from None
    try:
        _refuse_all_but_plain_values(text)
        return YAML(typ="safe").load(text)
    except MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        reason = f"{place}{error.context or ''} {error.problem}"
    except (YAMLError, ValueError, OverflowError) as error:  # dates can overflow
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
            reason = f"found a value of {length:,} characters; allowed: at most {LONGEST:,}"
        elif depth > DEEPEST:
            reason = f"found brackets or sections nested {depth} deep; allowed: at most {DEEPEST}"
        elif aliases > MOST_ALIASES:
            reason = f"found more than {MOST_ALIASES} aliases (*); allowed: at most {MOST_ALIASES}"
        else:
            continue
        raise ValueError(f"line {event.start_mark.line + 1}: {reason}")


def refusal(path: Path, reasons: Sequence[str]) -> InputError:
    """An error that lists the mistakes in a file, one line for each of the `reasons`."""
    return InputError("\n       ".join(f"{path}: {reason}" for reason in reasons))


def explain(
    error: ValidationError, section: type[Section], varying: Collection[str] = ()
) -> list[str]:
    """Explain pydantic's errors, one line per mistake; `section` is the schema of the whole file.

    A line names the key, the value found and the allowed values. A misspelt or misplaced key counts
    as one mistake: the key that it stands for is not reported as missing too. Contradictions of
    values named in `varying` are skipped, because a sweep changes these values.
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
            # If a key is not text, pydantic's location has it converted to text.
            key = details["input"] if details["type"] == "invalid_key" else location[-1]
            lines[f"{dotted([*location[:-1], key])}: unknown; {hint}"] = location
        elif details["type"] == "contradiction":
            for contradiction in details["ctx"]["found"]:
                if not set(contradiction.of) & set(varying):
                    lines[contradiction.line] = location
        else:
            lines[_explain_value(details, root)] = location
    # For a value of several possible types, pydantic reports one error per type; as keys of `lines`
    # they are merged.
    return [line for line, location in lines.items() if location not in missing & meant]


def _explain_value(details: Mapping, root: dict) -> str:
    location, schema = _find(details["loc"], root)
    name = dotted(location) or "the file"
    if details["loc"][-1:] == ("[key]",) and details["type"] == "string_type":
        return f"{name}: unknown; allowed: text"
    if details["type"] == "missing":
        return f"{name}: missing; allowed: {words(schema)}"
    if details["type"] == "value_error":  # raised by a validator, with a complete message
        return f"{name}: {details['msg'].removeprefix('Value error, ')}"
    near = nearest(details["input"], schema.get("enum", []))
    allowed = f"did you mean {near!r}?" if near else f"allowed: {words(schema)}"
    return f"{name}: found {shown(details['input'])}; {allowed}"


def _explain_unknown(
    location: Location, root: dict, missing: Container[Location]
) -> tuple[str, Location | None]:
    """A hint about an unknown key, and the location of the key it stands for, if unambiguous.

    Keys that are `missing` are preferred to keys that the file has.
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
    """The part of a pydantic location that consists of keys (no types, no list positions), and the
    schema there."""
    found, schema = [], root
    for key in location:
        inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
        if not inner:
            break
        found.append(key)
        schema = root["$defs"][inner["$ref"].rpartition("/")[2]] if "$ref" in inner else inner
    return tuple(found), schema


def words(schema: dict) -> str:
    """Describe the values that a JSON schema allows: "a whole number, 1 to 1,000"."""
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
    """Describe the range that a JSON schema allows: "1 to 1,000" or "above 0, at most 10"."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f"{low:,} to {high:,}"
    parts = {"{:,} or more": low, "above {:,}": above, "at most {:,}": high, "below {:,}": below}
    return ", ".join(part.format(bound) for part, bound in parts.items() if bound is not None)


def nearest(name: object, allowed: Iterable[str]) -> str | None:
    """The most similar of the `allowed` names, if any is similar; case is ignored."""
    plain = {_plain(candidate): candidate for candidate in allowed}
    near = difflib.get_close_matches(_plain(name), plain, n=1)
    return plain[near[0]] if near else None


def _plain(name: object) -> str:
    return shown(name).lower().replace("_", "").replace("-", "").strip("'\"")


def dotted(location: Iterable) -> str:
    """A name such as train.epochs; keys that are not plain text are formatted by `shown`."""
    return ".".join(
        key if isinstance(key, str) and key.isprintable() and len(key) <= 60 else shown(key)
        for key in location
    )


def shown(value: object) -> str:
    """Format a value nearly as in the file, on one line, shortened to 60 characters."""
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, (list, tuple, set)):
        return "a list"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
