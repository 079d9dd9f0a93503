"""The check that the saved model sees in the files what was prepared from them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from helpers.images import noisy_image
from helpers.models import CLASS_NAMES, TRAINED_ON, params_with
from image_classifier.common.errors import InputError
from image_classifier.common.images import load_image
from image_classifier.computing.prepared import ImageRecord, PreparedSplit
from image_classifier.computing.tensorflow_setup import keras, tf
from image_classifier.evaluation import steps
from image_classifier.outputs.model_file import TrainedModel
from image_classifier.preparation.inference import build_function
from image_classifier.training.classifier import build_networks

SIZE, COUNT = TRAINED_ON.image_size, 8
REMEDY = "`dvc repro --force --downstream prepare` creates both again"
BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST


@pytest.fixture(scope="module")
def network() -> keras.Model:
    """EfficientNet-Lite0 with its ImageNet weights below an untrained classifier."""
    params = params_with(SIZE, backbone="efficientnet_lite0")
    model = params.model.model_copy(update={"weights": "imagenet"})
    return build_networks(params.model_copy(update={"model": model}), len(CLASS_NAMES)).model


@pytest.fixture(scope="module")
def gpu(network: keras.Model) -> keras.Model:
    """The same as a GPU computes it, without the classifier."""
    pixels = keras.Input(network.input_shape[1:])
    return keras.Model(pixels, in_tf32(network.get_layer("feature_extractor"))(pixels))


@pytest.fixture(scope="module")
def cnn() -> keras.Model:
    return build_networks(params_with(SIZE, backbone="cnn"), len(CLASS_NAMES)).model


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Image files, coloured, wide and with details of several sizes."""
    monkeypatch.chdir(tmp_path)
    paths = [Path(f"data/raw/{number}.png") for number in range(COUNT)]
    paths[0].parent.mkdir(parents=True)
    for number, path in enumerate(paths):
        layers = [noisy_image(10 * number + side, (side, side)) for side in (2, 5, 20)]
        layers = [layer.resize((96, 64), Image.Resampling.BICUBIC) for layer in layers]
        image = Image.blend(Image.blend(*layers[:2], 0.5), layers[2], 0.3)
        image.filter(ImageFilter.SHARPEN).save(path)
    return paths


def check(network: keras.Model, files: list[Path], prepared: np.ndarray, count: int = 16) -> None:
    """Run the check with these prepared features or pixels of the files."""
    records = [ImageRecord(path.name, "cat", "test", "") for path in files]
    test = PreparedSplit(records, np.zeros(len(files), np.int64), prepared[np.newaxis])
    trained = TrainedModel(network, CLASS_NAMES, TRAINED_ON)
    steps.check_against_files(trained, test, count)


def pixels_of(files: list[Path]) -> np.ndarray:
    return np.stack([load_image(path, SIZE, "rgb") for path in files])


def features_of(network: keras.Model, pixels: np.ndarray) -> np.ndarray:
    return network.get_layer("feature_extractor")(pixels, training=False).numpy()


def to_tf32(x: tf.Tensor) -> tf.Tensor:
    """Round float32 to 10 bits behind the point, as an NVIDIA GPU does before it multiplies."""
    bits = tf.bitcast(tf.convert_to_tensor(x), tf.uint32)
    return tf.bitcast(tf.bitwise.bitwise_and(bits + 0x1000, 0xFFFFE000), tf.float32)


class ToTF32(keras.layers.Layer):
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return to_tf32(inputs)


def in_tf32(network: keras.Model) -> keras.Model:
    """A copy whose convolutions round their inputs and kernels."""
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)

    def copy(layer: keras.Layer) -> keras.Layer:
        is_network = isinstance(layer, keras.Model)
        return in_tf32(layer) if is_network else type(layer).from_config(layer.get_config())

    def call(layer: keras.Layer, inputs: tf.Tensor, *others: object, **options: object):
        inputs = ToTF32()(inputs) if isinstance(layer, kinds) else inputs
        return layer(inputs, *others, **options)

    copied = keras.models.clone_model(network, clone_function=copy, call_function=call)
    copied.set_weights([to_tf32(w) if w.name == "kernel" else w for w in network.weights])
    return copied


def resized(files: list[Path], kind: Image.Resampling, square: bool = False) -> np.ndarray:
    """Pixels by another filter than the right one, or of a square in the middle."""
    images = [Image.open(path) for path in files]
    if square:
        images = [image.crop((16, 0, 80, 64)) for image in images]
    return np.stack([np.asarray(image.resize((SIZE, SIZE), kind)) for image in images])


def without_antialias(files: list[Path]) -> np.ndarray:
    images = np.stack([np.asarray(Image.open(path)) for path in files])
    return tf.image.resize(images, (SIZE, SIZE)).numpy().round().astype(np.uint8)


def scaled(files: list[Path], scale: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Pixels which the network, that computes (x - 127) / 128, scales in another way."""
    return scale(pixels_of(files).astype(np.float32)) * 128 + 127


WRONG_PIXELS = {
    "rows in another order": lambda files: pixels_of(np.roll(files, 1)),
    "red and blue swapped": lambda files: pixels_of(files)[..., ::-1],
    "resize: nearest": lambda files: resized(files, NEAREST),
    "resize: without antialias": without_antialias,
    "resize: a square in the middle": lambda files: resized(files, BILINEAR, square=True),
}
WRONG_SCALES = {
    "scale: none": lambda files: scaled(files, lambda x: x),
    "scale: 0 to 1": lambda files: scaled(files, lambda x: x / 255),
    "scale: another mean": lambda files: scaled(files, lambda x: (x - 104) / 128),
    "scale: another deviation": lambda files: scaled(files, lambda x: (x - 127) / 58),
}


def test_right_features_are_accepted(network: keras.Model, files: list[Path]):
    pixels, weights = pixels_of(files), network.get_weights()
    check(network, files, features_of(network, pixels))
    check(network, files, build_function(network.get_layer("feature_extractor"))(pixels))
    for before, after in zip(weights, network.get_weights(), strict=True):
        assert (before == after).all()


def test_rounding_in_tf32_is_a_tenth_of_what_is_allowed(
    network: keras.Model, gpu: keras.Model, files: list[Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(steps, "WEIGHT_CHANGE", steps.WEIGHT_CHANGE / 10)
    check(gpu, files, features_of(network, pixels_of(files)))
    check(network, files, features_of(gpu, pixels_of(files)))


def test_the_weights_of_the_classifier_do_not_matter(
    network: keras.Model, gpu: keras.Model, files: list[Path]
):
    classifier = network.get_layer("classifier")
    weights = classifier.get_weights()
    features = features_of(gpu, pixels_of(files))
    try:
        classifier.set_weights([1e4 * weight for weight in weights])
        check(network, files, features)
    finally:
        classifier.set_weights(weights)


@pytest.mark.parametrize("fault", WRONG_PIXELS | WRONG_SCALES)
def test_features_of_other_pixels_are_an_error(network: keras.Model, files: list[Path], fault: str):
    wrong = (WRONG_PIXELS | WRONG_SCALES)[fault](files)
    with pytest.raises(InputError, match="gives features at a distance of"):
        check(network, files, features_of(network, wrong))


def test_features_by_other_weights_are_an_error(network: keras.Model, files: list[Path]):
    other = build_networks(params_with(SIZE, backbone="efficientnet_lite0"), 3).model
    with pytest.raises(InputError, match="gives features at a distance of"):
        check(network, files, features_of(other, pixels_of(files)))


def test_the_worst_image_is_named(network: keras.Model, files: list[Path]):
    twenty = [files[number % COUNT] for number in range(20)]  # two batches
    features = features_of(network, pixels_of(twenty))
    features[17] += 1  # an image of the second one
    with pytest.raises(InputError) as raised:
        check(network, twenty, features, count=20)
    head, tail = str(raised.value).split(" those in data/prepared, allowed: ")
    assert head == (
        "data/raw/1.png: models/model.keras gives features at a distance of 35.8 from"
    )  # the square root of 1280
    allowed, remedy = tail.split("; ")
    assert 0.1 < float(allowed) < 10 and remedy == REMEDY


def test_images_that_are_alike_or_alone_are_accepted(
    network: keras.Model, gpu: keras.Model, files: list[Path]
):
    alike = files[:1] * COUNT
    check(gpu, alike, features_of(network, pixels_of(alike)))
    check(gpu, files, features_of(network, pixels_of(files)), count=1)


def test_features_that_are_zero_are_compared_too(network: keras.Model, files: list[Path]):
    weights = network.get_weights()
    try:
        network.set_weights([0 * weight for weight in weights])
        features = features_of(network, pixels_of(files))
        assert (features == 0).all()
        check(network, files, features)
        for wrong in (features + 1, features + np.nan):
            with pytest.raises(InputError):
                check(network, files, wrong)
    finally:
        network.set_weights(weights)


def test_pixels_may_differ_as_much_as_versions_of_a_decoder(cnn: keras.Model, files: list[Path]):
    pixels = pixels_of(files)
    check(cnn, files, pixels)
    check(cnn, files, pixels ^ 1)  # by one level


@pytest.mark.parametrize("fault", WRONG_PIXELS)
def test_other_pixels_are_an_error(cnn: keras.Model, files: list[Path], fault: str):
    with pytest.raises(InputError) as raised:
        check(cnn, files, WRONG_PIXELS[fault](files))
    head, tail = str(raised.value).split(": its pixels differ on average by ")
    found, allowed = tail.split(" grey levels from those in data/prepared, allowed: ")
    assert head in [f"data/raw/{number}.png" for number in range(COUNT)]
    assert float(found) > 2 and allowed == f"2; {REMEDY}"
