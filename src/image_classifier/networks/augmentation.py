"""Random changes to training images that keep their class."""

from image_classifier.common.params import PrepareParams
from image_classifier.networks.tensorflow_setup import keras

# The number of samples per call, of the layers that sample more than once.
SAMPLES = {keras.layers.RandomTranslation: 2}  # vertical and horizontal shifts


def build_augmentation(params: PrepareParams, channels: int) -> keras.Sequential:
    """Build a network of the random changes in `params`, different for each image of a batch.

    It maps float32 (n, image_size, image_size, channels), with values 0 to 255, to the same shape
    and range. With `training=False`, images stay unchanged. Areas that a rotation, a zoom or a
    translation uncovers are filled with the image's reflection, the default of Keras' layers.
    """
    layers = [keras.layers.Identity()]  # Keras cannot call a network without layers
    # Each layer has its own seed: the angle of each image, say, would otherwise depend on its flip.
    if params.horizontal_flip:
        layers.append(keras.layers.RandomFlip("horizontal", seed=params.seed))
    if params.rotation:
        layers.append(keras.layers.RandomRotation(params.rotation, seed=params.seed + 1))
    if params.zoom:  # with one factor for both directions, it keeps the aspect ratio
        layers.append(keras.layers.RandomZoom(params.zoom, seed=params.seed + 2))
    if params.translation:
        factors = (params.translation, params.translation)  # vertical, horizontal
        layers.append(keras.layers.RandomTranslation(*factors, seed=params.seed + 3))
    if params.brightness:
        layers.append(
            keras.layers.RandomBrightness(
                params.brightness, value_range=(0, 255), seed=params.seed + 4
            )
        )
    if params.contrast:
        # Not one number: Keras 3.15 would then only increase the contrast.
        factors = (params.contrast, params.contrast)  # at most that much lower, or higher
        layers.append(
            keras.layers.RandomContrast(factors, value_range=(0, 255), seed=params.seed + 5)
        )
    shape = (params.image_size, params.image_size, channels)
    return keras.Sequential([keras.Input(shape), *layers], name="augmentation")


def set_call(augmentation: keras.Sequential, number: int) -> None:
    """Make the next call of an augmentation sample the random values of call `number`, from 0.

    The state of each random layer is its seed and the number of samples so far.
    """
    for layer in augmentation.layers:
        if generator := getattr(layer, "generator", None):
            generator.state.assign([layer.seed, number * SAMPLES.get(type(layer), 1)])
