"""The classifier on top of a feature extractor, and the whole network."""

from image_classifier.common.params import ModelParams
from image_classifier.networks.tensorflow_setup import keras


def build_classifier(params: ModelParams, feature_count: int, class_count: int) -> keras.Sequential:
    """Build a network from features, float32 (n, d), to logits, float32 (n, class_count)."""
    layers = [keras.Input((feature_count,), name="features")]
    if params.backbone == "cnn":
        # Thousands of features: without it, a step at a large learning rate ends the training.
        layers.append(keras.layers.Rescaling(feature_count**-0.5, name="scaling"))
        units = params.dense_units
        layers.append(keras.layers.Dense(units, activation="relu", name="dense"))
    layers.append(keras.layers.Dense(class_count, name="logits"))
    return keras.Sequential(layers, name="classifier")


def build_model(extractor: keras.Model, classifier: keras.Sequential) -> keras.Model:
    """Join both to a network from pixels, as `extractor` takes them, to probabilities."""
    pixels = keras.Input(extractor.input_shape[1:], name="pixels")
    probabilities = keras.layers.Softmax(name="probabilities")(classifier(extractor(pixels)))
    return keras.Model(pixels, probabilities, name="image_classifier")
