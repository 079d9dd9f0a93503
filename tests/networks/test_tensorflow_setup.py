"""Settings for other projects do not reach TensorFlow and Keras."""

import json
from pathlib import Path

import pytest

from helpers.project import OTHER_KERAS, OTHER_VARIABLES, REPOSITORY, run_python

SCRIPT = """
import json
import sys

from image_classifier.networks.tensorflow_setup import keras, tf

weights = keras.utils.get_file("weights.h5", sys.argv[1], cache_subdir="models")
settings = keras.config
print()
print(json.dumps({
    "backend": settings.backend(),
    "image_data_format": settings.image_data_format(),
    "floatx": settings.floatx(),
    "dtype_policy": settings.dtype_policy().name,
    "epsilon": settings.epsilon(),
    "nnx": settings.is_nnx_enabled(),
    "max_epochs": settings.max_epochs(),
    "max_steps": settings.max_steps_per_epoch(),
    "tf.keras": tf.keras.callbacks.Callback is keras.callbacks.Callback,
    "weights": weights,
}))
"""
EXPECTED = {
    "backend": "tensorflow",
    "image_data_format": "channels_last",
    "floatx": "float32",
    "dtype_policy": "float32",
    "epsilon": 1e-7,
    "nnx": False,
    "max_epochs": None,
    "max_steps": None,
    "tf.keras": True,
}


@pytest.mark.parametrize(
    ("keras_json", "folder", "variables"),
    [
        pytest.param(json.dumps(OTHER_KERAS), ".keras", {}, id="valid file"),
        pytest.param(json.dumps(OTHER_KERAS), "elsewhere", {}, id="valid file in KERAS_HOME"),
        pytest.param('{"floatx": "bfloat16", "epsilon": 1}', ".keras", {}, id="invalid values"),
        pytest.param("[]", ".keras", {}, id="no dictionary"),
        pytest.param("{}", ".keras", OTHER_VARIABLES, id="variables"),
    ],
)
def test_settings_for_other_projects_change_nothing(
    tmp_path: Path, keras_json: str, folder: str, variables: dict[str, str]
):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "keras.json").write_text(keras_json)
    (tmp_path / "weights").touch()
    done = run_python(
        *("-c", SCRIPT, (tmp_path / "weights").as_uri()),
        folder=tmp_path,
        HOME=str(tmp_path),
        KERAS_HOME="" if folder == ".keras" else str(tmp_path / folder),
        PYTHONPATH=str(REPOSITORY / "src"),
        **variables,
    )
    assert done.returncode == 0, done.stderr
    # Weights that Keras downloads stay in the user's folder.
    weights = str(tmp_path / folder / "models/weights.h5")
    assert json.loads(done.stdout.splitlines()[-1]) == {**EXPECTED, "weights": weights}


def test_a_training_loads_no_library_that_it_does_not_need():
    """Keras imports them if it can, which takes a third of its time."""
    code = (
        "import sys\n"
        "from image_classifier.outputs import live\n"  # before TensorFlow, as in src/train.py
        "from image_classifier.training import steps\n"
        "loaded = {'matplotlib.pyplot', 'scipy', 'sklearn'} & sys.modules.keys()\n"
        "assert not loaded, loaded\n"
        "import matplotlib.pyplot, sklearn.metrics\n"  # others still find them
    )
    done = run_python("-c", code, folder=REPOSITORY / "src")
    assert done.returncode == 0, done.stderr
