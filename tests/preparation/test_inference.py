"""Fast inference gives the same results in any batch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.project import REPOSITORY
from image_classifier.computing.openvino_model import ROWS_PER_REQUEST
from image_classifier.networks.tensorflow_setup import keras
from image_classifier.preparation.inference import build_function


@pytest.fixture(scope="module")
def network() -> keras.Model:
    """A small network with every kind of layer of the backbones."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same")((pixels - 127.0) / 128.0)
    x = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization()(x))
    x = keras.layers.Add()([x, keras.layers.DepthwiseConv2D(3, padding="same")(x)])
    x = keras.layers.MaxPooling2D(3, strides=2)(keras.layers.ZeroPadding2D(1)(x))
    return keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(x))


@pytest.mark.parametrize(
    "count", [1, ROWS_PER_REQUEST - 1, ROWS_PER_REQUEST, 5 * ROWS_PER_REQUEST + 1]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_results_equal_those_of_the_network(network: keras.Model, count: int, dtype: type):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(dtype)
    results = build_function(network)(pixels)
    expected = network(pixels, training=False).numpy()
    assert results.dtype == np.float32
    np.testing.assert_allclose(results, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_an_image_has_the_same_features_in_any_batch(network: keras.Model):
    pixels = np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3)).astype(np.uint8)
    function = build_function(network)
    assert (function(pixels)[7:9] == function(pixels[7:9])).all()


def test_later_training_does_not_change_the_function(network: keras.Model):
    pixels = np.ones((2, 32, 32, 3), np.uint8)
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    function = build_function(copy)
    before = function(pixels)
    copy.set_weights([weight + 1 for weight in copy.get_weights()])
    assert (function(pixels) == before).all()


def test_openvino_sends_no_usage_data(tmp_path):
    script = (
        "import sys, numpy as np\n"
        "from image_classifier.preparation.inference import build_function\n"
        "from image_classifier.networks.tensorflow_setup import keras\n"
        "network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])\n"
        "build_function(network)(np.ones((1, 2)))\n"
        "assert 'openvino' in sys.modules\n"
        "assert not sys.modules['openvino_telemetry']\n"
    )
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY / "src")}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert not (tmp_path / "intel").exists()  # where its telemetry stores an ID of the user


# Without its protection, about a third of the processes hangs.
FIRST_CALLS = """
import os, signal, sys
import numpy as np
from image_classifier.computing.openvino_model import build_function, openvino, ops

pixels = ops.parameter([-1, 3])
features = ops.relu(pixels)
features.output(0).get_tensor().set_names({"features"})
model = openvino.Model([features], [pixels])
for _ in range(12):
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
    else:
        signal.alarm(20)
        sys.setswitchinterval(1e-6)
        build_function(model, "features", rows=1, threads=4)(np.zeros((64, 3)))
        os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts many processes quickly")
def test_the_first_calls_of_several_threads_do_not_wait_for_each_other(tmp_path: Path):
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY / "src")}
    subprocess.run([sys.executable, "-c", FIRST_CALLS], env=environment, check=True)
