"""Heat maps mark the regions that decide the class."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.models import whole_network
from helpers.project import REPOSITORY
from image_classifier.common.params import Params, read_params
from image_classifier.networks.tensorflow_setup import keras
from image_classifier.prediction.explanation import (
    LONGER_SIDE,
    MARGIN,
    build_explainer,
    draw_explanation,
)
from image_classifier.training.classifier import build_networks
from image_classifier.training.optimization import compile_network

SIZE = 32


def params_with(color_mode: str = "rgb", image_size: int = SIZE, **model: object) -> Params:
    params = read_params(REPOSITORY / "params.yaml").model_dump()
    params["prepare"].update(image_size=image_size, color_mode=color_mode)
    params["model"].update(model)
    return Params.model_validate(params)


def corner_images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with two bright patches: the class is the left corner (top, bottom) of one of them.

    The other patch is in a random right corner, independent of the class.
    """
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 120, (count, SIZE, SIZE, 1)).astype(np.uint8)
    labels = generator.integers(0, 2, count)
    for image, at_bottom, other_at_bottom in zip(
        pixels, labels, generator.integers(0, 2, count), strict=True
    ):
        for left, bottom in ((True, at_bottom), (False, other_at_bottom)):
            row, column = (SIZE - 9 if bottom else 2), (2 if left else SIZE - 9)
            image[row : row + 7, column : column + 7] = 255
    return pixels, labels


def test_the_heat_is_at_the_region_that_decides_the_class():
    keras.utils.set_random_seed(0)
    params = params_with("grayscale")
    changes = {"learning_rate": 0.003, "schedule": "constant", "warmup_epochs": 0}
    params = params.model_copy(update={"train": params.train.model_copy(update=changes)})
    network, model = build_networks(params, feature_count=0, class_count=2)
    pixels, labels = corner_images(600, seed=1)
    compile_network(network, params, labels)
    network.fit(pixels, labels, epochs=6, verbose=0)

    pixels, labels = corner_images(100, seed=2)
    probabilities, heat = build_explainer(model)(pixels)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.97
    half = SIZE // 2
    shares = []
    for heat_map, at_bottom in zip(heat, labels, strict=True):
        rows = slice(half, None) if at_bottom else slice(None, half)
        shares.append(heat_map[rows, :half].sum() / heat_map.sum())
    # The corner is a quarter of the image: heat independent of the image has a share of 0.25.
    assert np.mean(shares) > 0.7
    assert np.quantile(shares, 0.1) > 0.5


@pytest.mark.parametrize(
    "params",
    [
        params_with(backbone="efficientnet_lite0", image_size=96),
        params_with(backbone="efficientnet_lite0", fine_tune_layers=2, image_size=64),
        params_with(backbone="vgg16", weights="random", image_size=64),
    ],
    ids=["frozen", "fine-tuned", "keras.applications"],
)
def test_after_average_pooling_it_is_the_class_activation_map(params: Params):
    """Zhou et al., https://arxiv.org/abs/1512.04150: the map with the weights of the class."""
    keras.utils.set_random_seed(0)  # with other seeds, an image may have no heat at all
    network = whole_network(params, class_count=3)
    size = params.prepare.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (4, size, size, 3)).astype(np.uint8)
    probabilities, heat = build_explainer(network)(pixels)
    np.testing.assert_allclose(probabilities, network.predict(pixels, verbose=0), atol=1e-6)

    extractor = network.get_layer("feature_extractor")
    cells = keras.Model(extractor.input, extractor.layers[-1].input).predict(pixels, verbose=0)
    weights, _ = network.get_layer("classifier").get_layer("logits").get_weights()
    expected = np.einsum("nijk,kn->nij", cells, weights[:, probabilities.argmax(axis=1)])
    expected = expected.clip(0) / expected[0].size
    middles = heat[:, 16::32, 16::32]  # half a pixel past the middles of cells of 32 pixels
    assert heat.shape == (4, size, size) and heat.max() > 0
    assert np.abs(middles - expected).max() < 0.05 * expected.max()


def test_every_cell_is_at_its_position():
    network = whole_network(params_with("grayscale", image_size=30), class_count=2)
    explain = build_explainer(network)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 30, 30, 1)).astype(np.uint8)
    _, heat = explain(pixels)
    assert heat.shape == (3, 30, 30)
    # Two poolings leave 7 cells of 4 pixels; the last two pixels repeat the last cell.
    for rows in (heat, heat.transpose(0, 2, 1)):
        np.testing.assert_allclose(rows[:, 27:], rows[:, 26:29], rtol=1e-5)
        assert np.abs(rows[:, 25] - rows[:, 26]).max() > 1e-3 * heat.max()


def panels(sheet: Image.Image, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.asarray(sheet).astype(int)[-height:]
    return pixels[:, :width], pixels[:, width + MARGIN : 2 * width + MARGIN]


def test_a_wide_image_is_placed_beside_its_heat_map(tmp_path: Path):
    Image.new("RGB", (800, 400), (90, 90, 90)).save(tmp_path / "wide.png")
    heat = np.zeros((SIZE, SIZE), np.float32)
    heat[:8, 24:] = 5
    sheet = draw_explanation(tmp_path / "wide.png", heat, "cat 99.0%")
    width, height = LONGER_SIDE, LONGER_SIDE // 2
    plain, heated = panels(sheet, width, height)
    assert (plain == 90).all()
    changed = (heated != plain).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert changed[2, -2] and rows.max() < height * 0.3 and columns.min() > width * 0.7
    caption = np.asarray(sheet)[: -height - 1]
    assert caption.min() < 50 and caption.max() == 255


@pytest.mark.parametrize("size", [(1, 600), (600, 1), (3, 3)])
def test_any_shape_and_no_heat_at_all_are_possible(tmp_path: Path, size: tuple[int, int]):
    Image.new("L", size, 200).save(tmp_path / "image.png")
    caption = "a class with a long name ü Ж 99.0%, another one 1.0%"
    sheet = draw_explanation(tmp_path / "image.png", np.zeros((8, 8), np.float32), caption)
    plain, heated = panels(sheet, *(max(1, side * LONGER_SIDE // max(size)) for side in size))
    assert (plain == heated).all() and (plain == 200).all()
    assert sheet.width > 300
