"""The check that the saved model sees in the files what was prepared from them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from helpers.images import noisy_image
from helpers.models import CLASS_NAMES, TRAINED_ON, params_with, whole_network
from image_classifier.common.errors import InputError
from image_classifier.common.images import load_image
from image_classifier.computing.openvino_model import add_classifier, build_function, openvino
from image_classifier.computing.prepared import PREPARED, ImageRecord, PreparedSplit
from image_classifier.computing.prepared_network import describe_network, write_record
from image_classifier.evaluation import steps
from image_classifier.networks.tensorflow_setup import keras, tf
from image_classifier.networks.translation import translate_extractor, translate_model
from image_classifier.outputs.openvino_file import TranslatedModel
from image_classifier.preparation import network as network_of_prepare
from image_classifier.preparation.network import compare_features

SIZE, COUNT = TRAINED_ON.image_size, 8
REMEDY = "`dvc repro --force --downstream prepare` creates both again"
BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
PARAMS = params_with(SIZE, backbone="efficientnet_lite0")


@pytest.fixture(scope="module")
def extractor() -> keras.Model:
    """EfficientNet-Lite0 with its ImageNet weights."""
    model = PARAMS.model.model_copy(update={"weights": "imagenet"})
    network = whole_network(PARAMS.model_copy(update={"model": model}), len(CLASS_NAMES))
    return network.get_layer("feature_extractor")


@pytest.fixture(scope="module")
def network(extractor: keras.Model) -> openvino.Model:
    """The same below a classifier, as a training saves it."""
    return with_classifier(extractor)


@pytest.fixture(scope="module")
def gpu(extractor: keras.Model) -> keras.Model:
    """The extractor as a GPU computes it."""
    return in_tf32(extractor)


@pytest.fixture(scope="module")
def tolerance(extractor: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> float:
    folder = tmp_path_factory.mktemp("images")
    return compare_features(extractor, pixels_of(write_files(folder)))[1]


@pytest.fixture(scope="module")
def cnn() -> openvino.Model:
    return translate_model(whole_network(params_with(SIZE, backbone="cnn"), len(CLASS_NAMES)))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Image files, coloured, wide and with details of several sizes."""
    monkeypatch.chdir(tmp_path)
    return write_files(Path("data/raw"))


def write_files(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(COUNT)]
    for number, path in enumerate(paths):
        layers = [noisy_image(10 * number + side, (side, side)) for side in (2, 5, 20)]
        layers = [layer.resize((96, 64), Image.Resampling.BICUBIC) for layer in layers]
        image = Image.blend(Image.blend(*layers[:2], 0.5), layers[2], 0.3)
        image.filter(ImageFilter.SHARPEN).save(path)
    return paths


def check(
    network: openvino.Model,
    files: list[Path],
    prepared: np.ndarray,
    tolerance: float | None = None,
    count: int = 16,
) -> None:
    """Run the check with these prepared features or pixels of the files."""
    records = [ImageRecord(path.name, "cat", "test", "") for path in files]
    test = PreparedSplit(records, np.zeros(len(files), np.int64), prepared[np.newaxis])
    if tolerance is not None:
        PREPARED.mkdir(exist_ok=True)
        write_record(describe_network(PARAMS, tolerance), PREPARED)
    trained = TranslatedModel(network, CLASS_NAMES, TRAINED_ON)
    steps.check_against_files(trained, test, count)


def with_classifier(extractor: keras.Model, scale: float = 1) -> openvino.Model:
    generator = np.random.default_rng(0)
    kernel = scale * generator.normal(size=(extractor.output_shape[-1], len(CLASS_NAMES)))
    bias = np.zeros(len(CLASS_NAMES), np.float32)
    return add_classifier(translate_extractor(extractor), kernel.astype(np.float32), bias)


def pixels_of(files: list[Path]) -> np.ndarray:
    return np.stack([load_image(path, SIZE, "rgb") for path in files])


def features_of(extractor: keras.Model, pixels: np.ndarray) -> np.ndarray:
    return extractor(pixels, training=False).numpy()


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


def test_right_features_are_accepted(
    extractor: keras.Model, network: openvino.Model, files: list[Path], tolerance: float
):
    pixels = pixels_of(files)
    check(network, files, features_of(extractor, pixels), tolerance)
    check(network, files, build_function(network, "features")(pixels), tolerance)


def test_a_comparison_leaves_the_weights_as_they_are(extractor: keras.Model, files: list[Path]):
    weights = extractor.get_weights()
    features, _ = compare_features(extractor, pixels_of(files))
    assert (features == features_of(extractor, pixels_of(files))).all()
    for before, after in zip(weights, extractor.get_weights(), strict=True):
        assert (before == after).all()


def test_rounding_in_tf32_is_a_tenth_of_what_is_allowed(
    extractor: keras.Model,
    network: openvino.Model,
    gpu: keras.Model,
    files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
):
    change = network_of_prepare.WEIGHT_CHANGE / 10
    monkeypatch.setattr(network_of_prepare, "WEIGHT_CHANGE", change)
    _, tolerance = compare_features(extractor, pixels_of(files))
    check(network, files, features_of(gpu, pixels_of(files)), tolerance)


def test_the_weights_of_the_classifier_do_not_matter(
    extractor: keras.Model, gpu: keras.Model, files: list[Path], tolerance: float
):
    features = features_of(gpu, pixels_of(files))
    check(with_classifier(extractor, scale=1e4), files, features, tolerance)


@pytest.mark.parametrize("fault", WRONG_PIXELS | WRONG_SCALES)
def test_features_of_other_pixels_are_an_error(
    extractor: keras.Model,
    network: openvino.Model,
    files: list[Path],
    tolerance: float,
    fault: str,
):
    wrong = (WRONG_PIXELS | WRONG_SCALES)[fault](files)
    with pytest.raises(InputError, match="gives features at a distance of"):
        check(network, files, features_of(extractor, wrong), tolerance)


def test_features_by_other_weights_are_an_error(
    network: openvino.Model, files: list[Path], tolerance: float
):
    other = whole_network(PARAMS, 3).get_layer("feature_extractor")
    with pytest.raises(InputError, match="gives features at a distance of"):
        check(network, files, features_of(other, pixels_of(files)), tolerance)


def test_the_worst_image_is_named(
    extractor: keras.Model, network: openvino.Model, files: list[Path], tolerance: float
):
    twenty = [files[number % COUNT] for number in range(20)]  # two batches
    features = features_of(extractor, pixels_of(twenty))
    features[17] += 1  # an image of the second one
    with pytest.raises(InputError) as raised:
        check(network, twenty, features, tolerance, count=20)
    head, tail = str(raised.value).split(" those in data/prepared, allowed: ")
    assert head == (
        "data/raw/1.png: models/openvino/model.xml gives features at a distance of 35.8 from"
    )  # the square root of 1280
    allowed, remedy = tail.split("; ")
    assert 0.1 < float(allowed) < 10 and remedy == REMEDY


def test_images_that_are_alike_or_alone_are_accepted(
    network: openvino.Model, gpu: keras.Model, files: list[Path], tolerance: float
):
    alike = files[:1] * COUNT
    check(network, alike, features_of(gpu, pixels_of(alike)), tolerance)
    check(network, files, features_of(gpu, pixels_of(files)), tolerance, count=1)


def test_features_that_are_zero_are_compared_too(extractor: keras.Model, files: list[Path]):
    weights = extractor.get_weights()
    try:
        extractor.set_weights([0 * weight for weight in weights])
        network = with_classifier(extractor)
        features, tolerance = compare_features(extractor, pixels_of(files))
    finally:
        extractor.set_weights(weights)
    assert (features == 0).all()
    check(network, files, features, tolerance)
    for wrong in (features + 1, features + np.nan):
        with pytest.raises(InputError):
            check(network, files, wrong, tolerance)


def test_pixels_may_differ_as_much_as_versions_of_a_decoder(cnn: openvino.Model, files: list[Path]):
    pixels = pixels_of(files)
    check(cnn, files, pixels)
    check(cnn, files, pixels ^ 1)  # by one level


@pytest.mark.parametrize("fault", WRONG_PIXELS)
def test_other_pixels_are_an_error(cnn: openvino.Model, files: list[Path], fault: str):
    with pytest.raises(InputError) as raised:
        check(cnn, files, WRONG_PIXELS[fault](files))
    head, tail = str(raised.value).split(": its pixels differ on average by ")
    found, allowed = tail.split(" grey levels from those in data/prepared, allowed: ")
    assert head in [f"data/raw/{number}.png" for number in range(COUNT)]
    assert float(found) > 2 and allowed == f"2; {REMEDY}"
