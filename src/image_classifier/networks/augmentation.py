"""Random changes to training images that keep their class."""

from image_classifier.common.params import PrepareParams
from image_classifier.computing.tensorflow_setup import keras


def build_augmentation(params: PrepareParams, channels: int) -> keras.Sequential:
    """Build a network of random horizontal flip and rotation.

    It maps float32 (n, image_size, image_size, channels) to the same shape. With `training=False`,
    images stay unchanged. Corners uncovered by a rotation are filled with the image's reflection,
    the default of `keras.layers.RandomRotation`.
    """
    layers = [keras.layers.Identity()]  # Keras cannot call a network without layers
    if params.horizontal_flip:
        layers.append(keras.layers.RandomFlip("horizontal", seed=params.seed))
    if params.rotation:
        # Not the seed of the flip: the angle of each image would then depend on its flip.
        layers.append(keras.layers.RandomRotation(params.rotation, seed=params.seed + 1))
    shape = (params.image_size, params.image_size, channels)
    return keras.Sequential([keras.Input(shape), *layers], name="augmentation")


def set_call(augmentation: keras.Sequential, number: int) -> None:
    """Make the next call of an augmentation sample the random values of call `number`, from 0.

    Each random layer samples once per call; its state is its seed and the number of samples so
    far.
    """
    for layer in augmentation.layers:
        if generator := getattr(layer, "generator", None):
            generator.state.assign([layer.seed, number])
