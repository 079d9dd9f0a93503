"""The tutorial's way, to compare with: decode, augment and run the backbone anew in every epoch.

    python benchmarks/tutorial.py folder-with-train-and-validation --epochs 15

Written as https://keras.io/guides/transfer_learning and TensorFlow's transfer learning tutorial
teach it, without anything of this repository, in TensorFlow's default settings. The weights are
random: the arithmetic is the same, and nothing has to be fetched.
"""

import argparse
import json
import time

START = time.perf_counter()

import keras  # noqa: E402  (its time counts)

IMAGE_SIZE = (180, 180)


class Stopwatch(keras.callbacks.Callback):
    """Notes the seconds since the start at which the first batch and each epoch ended."""

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
    parser.add_argument("folder")
    parser.add_argument("--backbone", choices=["ResNet50", "MobileNetV2"], default="ResNet50")
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()

    train, validation = (
        keras.utils.image_dataset_from_directory(
            f"{arguments.folder}/{split}", image_size=IMAGE_SIZE, batch_size=32, verbose=False
        )
        for split in ("train", "validation")
    )

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
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile(
        optimizer=keras.optimizers.Adam(),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=["accuracy"],
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
