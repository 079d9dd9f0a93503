"""Random changes to training images that leave their class as it is."""

from image_classifier.common.params import PrepareParams
from image_classifier.computing.tensorflow_setup import keras


def build_augmentation(params: PrepareParams, channels: int) -> keras.Sequential:
    """A network of random horizontal flip and rotation.

    It maps float32 (n, image_size, image_size, channels) to the same shape, and passes images
    through unchanged when called with `training=False`. Corners that a rotation uncovers are
    filled with the image's reflection, the default of `keras.layers.RandomRotation`.
    """
    layers = [keras.layers.Identity()]  # Keras cannot call a network without layers
    if params.horizontal_flip:
        layers.append(keras.layers.RandomFlip("horizontal", seed=params.seed))
    if params.rotation:
        # Another seed than the flip's, or each image's angle would follow from its flip.
        layers.append(keras.layers.RandomRotation(params.rotation, seed=params.seed + 1))
    shape = (params.image_size, params.image_size, channels)
    return keras.Sequential([keras.Input(shape), *layers], name="augmentation")


def set_call(augmentation: keras.Sequential, number: int) -> None:
    """Make the next call of an augmentation draw what it would draw as call `number`, from 0.

    Each random layer draws once in a call, and its state is a pair of its seed and how often it
    has drawn.
    """
    for layer in augmentation.layers:
        if generator := getattr(layer, "generator", None):
            generator.state.assign([layer.seed, number])
