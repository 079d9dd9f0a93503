"""The format of sweep files."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
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
    write_yaml,
)
from image_classifier.common.errors import InputError
from image_classifier.common.params import Params, read_params
from image_classifier.sweeps.study import build_sampler
from image_classifier.sweeps.sweep_file import SEARCHED, Sweep, read_sweep
from image_classifier.sweeps.trials import PREPARE_PARAMETERS

SWEEP = REPOSITORY / "sweeps/learning_rate.yaml"
TEXT = SWEEP.read_text(encoding="utf-8")
KEYS = {
    location[0]: schema
    for location, schema in keys_of(Sweep.model_json_schema())
    if location != ("parameters",)
}
FORM = "a section of key: value lines"


@pytest.fixture(scope="module")
def params() -> Params:
    return read_params(REPOSITORY / "params.yaml")


def reasons_of(path: Path, params: Params) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_sweep(path, params)
    return reasons_in(str(caught.value), path)


@EXAMPLES
@pytest.mark.fault(
    "Parameters", "a key of a sweep missing, null, wrong or misspelt", "one-line error for each"
)
def test_each_faulty_key_gives_a_line(
    tmp_path: Path, params: Params, record_property: Callable, examples: int
):
    default, path, injections = YAML(typ="safe").load(TEXT), tmp_path / "sweep.yaml", 0

    @quick(10 * examples)
    @given(st.lists(st.sampled_from(list(KEYS)), min_size=1, unique=True), st.data())
    def check(keys: list[str], data: st.DataObject) -> None:
        nonlocal injections
        values = copy.deepcopy(default)
        expected = []
        for key in keys:
            fault = data.draw(st.sampled_from(["missing", "null", "misspelt", "type", "range"]))
            value = values.pop(key)
            expected.append(f"{key}: found ")
            if fault == "missing":
                expected[-1] = f"{key}: missing; allowed: "
            elif fault == "null":
                values[key] = None
            elif fault == "misspelt":
                wrong = data.draw(misspelt(key))
                values[wrong] = value
                expected[-1] = f"{wrong}: unknown; did you mean {key!r}?"
            else:
                strategy = of_wrong_type if fault == "type" else out_of_range
                values[key] = data.draw(strategy(KEYS[key]))
        write_yaml(values, path)
        check_reasons(reasons_of(path, params), expected)
        injections += len(expected)

    check()
    record_property("injections", injections)


@pytest.mark.fault("Parameters", "values to sweep that are not allowed", "one-line error for each")
@pytest.mark.parametrize(
    ("searched", "reasons"),
    [
        ("train.dropuot: {low: 0, high: 1}", [": unknown; did you mean 'train.dropout'?"]),
        ("dropout: {low: 0, high: 0.5}", [": unknown; did you mean 'train.dropout'?"]),
        ("prepare.seed: {choices: [1]}", [": not varied by sweeps; allowed: train.learning_rate"]),
        ("compute: {choices: [1]}", [": unknown; allowed: train.learning_rate"]),
        ("train.dropout: 3", [f": found 3; allowed: {FORM}"]),
        ("train.dropout: {lo: 0, high: 0.1}", [".lo: unknown; did you mean 'low'?"]),
        ("train.dropout: {low: a, high: 0.1}", [".low: found 'a'; allowed: a number"]),
        ("train.dropout: {low: 0.1}", [": found an incomplete range; allowed: choices"]),
        (
            "train.dropout: {choices: [0.1], log: true}",
            [": found choices and a range; allowed: either"],
        ),
        ("train.dropout: {low: 0.2, high: 0.1}", [": found low 0.2; allowed: at most high, 0.1"]),
        (
            "train.dropout: {low: 0.0, high: 0.1, log: true}",
            [": found low 0.0; allowed with log: above 0"],
        ),
        (
            "train.dropout: {low: 0.1, high: 0.2, log: true, step: 0.1}",
            [": found log and step 0.1; allowed: either"],
        ),
        ("train.dropout: {low: 0.1, high: 0.2, step: 0}", [": found step 0; allowed: above 0"]),
        (
            "train.dropout: {low: 0.1, high: 0.2, step: 1e-300}",
            [": found step 1e-300; allowed: at most 100,000 steps"],
        ),
        (
            "train.dropout: {low: 0, high: 1e300}",
            [".high: found 1e+300; allowed: a number, -4,294,967,296 to"],
        ),
        (
            "train.dropout: {low: -1, high: 0.5}",
            [": found -1.0; allowed: a number, 0 or more, below 1"],
        ),
        (
            "train.epochs: {low: 1, high: 3, step: 0.5}",  # would give 1.5
            [": found 1.0; allowed: a whole number", ": found 3.0; allowed: a whole number"],
        ),
        (
            "train.batch_size: {choices: [8, 0, big, null]}",
            [".choices: found null; allowed: a list of 1 to 1,000 numbers"],
        ),
        (
            "train.batch_size: {choices: [8, 0, big]}",
            [": found 0; allowed", ": found 'big'; allowed"],
        ),
        ("train.batch_size: {choices: []}", [".choices: found a list; allowed"]),
        (
            "model.backbone: {choices: [cnn, ResNet50]}",
            [": found 'ResNet50'; did you mean 'resnet50'?"],
        ),
        (
            "model.backbone: {choices: [cnn, resnet50]}",
            [
                ": found 'resnet50'; prepare.image_size: found 28; allowed with resnet50: 32",
                ": found 'resnet50'; prepare.color_mode: found 'grayscale'; allowed with resnet50",
            ],
        ),
        ("train.stop_after: {low: 1, high: 16}", [": found 16; train.epochs is 15"]),
        ("3: {low: 1, high: 2}", [": unknown; allowed: text"]),
    ],
)
def test_values_that_a_sweep_refuses(
    tmp_path: Path, params: Params, searched: str, reasons: list[str]
):
    """`reasons` are the starts of the lines, after the name."""
    path = tmp_path / "sweep.yaml"
    path.write_text(f"{TEXT.partition('parameters:')[0]}parameters:\n  {searched}\n")
    name = searched.partition(":")[0]
    check_starts(reasons_of(path, params), [f"parameters.{name}{reason}" for reason in reasons])


def test_values_that_suit_another_varied_parameter_are_tried(tmp_path: Path, params: Params):
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"{TEXT}  train.stop_after: {{choices: [3, 18]}}\n  train.epochs: {{choices: [4, 20]}}\n"
    )
    read_sweep(path, params)


@pytest.mark.parametrize(("backbone", "image_size"), [("cnn", 28), ("efficientnet_lite0", 32)])
def test_prepared_data_may_suit_another_varied_parameter(
    tmp_path: Path, params: Params, backbone: str, image_size: int
):
    values = params.model_dump()
    values["prepare"].update(image_size=image_size, color_mode="rgb", views=2, rotation=0.1)
    values["model"].update(backbone=backbone)
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"{TEXT.partition('parameters:')[0]}parameters:\n"
        "  model.backbone: {choices: [cnn, efficientnet_lite0]}\n"
        "  prepare.image_size: {choices: [28, 32]}\n"
        "  prepare.views: {choices: [1, 2, 20]}\n"
        "  prepare.rotation: {choices: [0.0, 0.1]}\n"
        "  train.epochs: {choices: [1, 20]}\n"
    )
    read_sweep(path, Params.model_validate(values))


def test_each_varied_parameter_that_stage_prepare_reads_prepares_the_data():
    stages = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["stages"]
    read = stages["prepare"]["params"]
    varied = {name for name in SEARCHED if name in read or name.partition(".")[0] in read}
    assert varied == set(PREPARE_PARAMETERS)


def test_a_grid_must_be_finite(tmp_path: Path, params: Params):
    path = tmp_path / "sweep.yaml"
    grid = TEXT.replace("sampler: tpe ", "sampler: grid ")
    path.write_text(grid.replace("trials: 20", "trials: 0"))
    assert reasons_of(path, params) == [
        "trials: found 0; allowed: a whole number, 1 to 1,000,000",
        "parameters.train.learning_rate: found no step; allowed in a grid: choices, or a step",
    ]
    path.write_text(grid.replace("log: true", "step: 0.00001"))
    assert reasons_of(path, params) == [
        "parameters: found a grid of 279,748 trials; allowed: 100,000"
    ]
    path.write_text(grid.replace("log: true", "step: 0.01"))
    assert read_sweep(path, params).combinations == 10 * 7 * 4


def test_the_largest_seed_allows_any_number_of_trials(tmp_path: Path, params: Params):
    path = tmp_path / "sweep.yaml"
    for sampler in ("tpe", "random"):
        text = TEXT.replace("sampler: tpe ", f"sampler: {sampler} ")
        path.write_text(text.replace("seed: 0", "seed: 4294967295"))
        build_sampler(read_sweep(path, params), trial_count=3)


@EXAMPLES
@pytest.mark.fault("Parameters", "a sweep file with text inserted and removed", "read or refused")
def test_any_text_is_read_or_refused(
    tmp_path: Path, params: Params, record_property: Callable, examples: int
):
    path, refused = tmp_path / "sweep.yaml", 0

    @quick(20 * examples)
    @given(damaged(TEXT))
    def check(text: str) -> None:
        nonlocal refused
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            assert isinstance(read_sweep(path, params), Sweep)
        except InputError:
            assert all(len(reason) < 1000 for reason in reasons_of(path, params))
            refused += 1

    check()
    record_property("injections", refused)
