"""Train as tutorials do, for comparison: decode, augment and run the backbone in every epoch.

    python benchmarks/tutorial.py folder-of-class-folders --epochs 15

Written as https://keras.io/guides/transfer_learning/ and
https://www.tensorflow.org/tutorials/images/transfer_learning teach it, without code of this
repository, with TensorFlow's default settings. The weights are random: the arithmetic is the same,
and no download is needed. If the folder contains train and validation, they are used as they are;
otherwise a fifth of the images is used for validation.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

START = time.perf_counter()

import keras  # noqa: E402  (the time of this import counts)
import tensorflow as tf  # noqa: E402

IMAGE_SIZE = (180, 180)


class Stopwatch(keras.callbacks.Callback):
    """Record the seconds from the start to the end of the first batch and of each epoch."""

    first_batch = None

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_train_batch_end(self, batch, logs=None):
        if self.first_batch is None:
            self.first_batch = time.perf_counter() - START

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(time.perf_counter() - START)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", choices=["ResNet50", "MobileNetV2"], default="ResNet50")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument(
        "--without-tuning",
        action="store_true",
        help="turn off the thread that tunes tf.data, for which the end of an epoch may wait",
    )
    parser.add_argument(
        "--without-xla",
        action="store_true",
        help="do not compile with XLA on a GPU, which needs further files of CUDA",
    )
    arguments = parser.parse_args()

    load = partial(
        keras.utils.image_dataset_from_directory,
        image_size=IMAGE_SIZE,
        batch_size=32,
        verbose=False,
    )
    if (arguments.folder / "train").is_dir():
        train, validation = load(arguments.folder / "train"), load(arguments.folder / "validation")
    else:
        train, validation = load(arguments.folder, validation_split=0.2, subset="both", seed=0)
    class_count = len(train.class_names)
    if arguments.without_tuning:
        options = tf.data.Options()
        options.autotune.enabled = False
        train, validation = train.with_options(options), validation.with_options(options)

    backbone = getattr(keras.applications, arguments.backbone)(
        include_top=False, weights=None, input_shape=(*IMAGE_SIZE, 3)
    )
    backbone.trainable = False
    module = {"ResNet50": "resnet50", "MobileNetV2": "mobilenet_v2"}[arguments.backbone]
    inputs = keras.Input((*IMAGE_SIZE, 3))
    x = keras.layers.RandomFlip("horizontal")(inputs)
    x = keras.layers.RandomRotation(0.2)(x)
    x = getattr(keras.applications, module).preprocess_input(x)
    x = backbone(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    model = keras.Model(inputs, keras.layers.Dense(class_count)(x))
    model.compile(
        optimizer=keras.optimizers.Adam(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False if arguments.without_xla else "auto",
    )

    stopwatch = Stopwatch()
    model.fit(
        train,
        validation_data=validation,
        epochs=arguments.epochs,
        callbacks=[stopwatch],
        verbose=0,
    )
    print(json.dumps({"first_batch": stopwatch.first_batch, "epochs": stopwatch.epochs}))


if __name__ == "__main__":
    main()
