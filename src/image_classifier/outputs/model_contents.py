"""What a model file may hold: numbers, and classes of Keras that networks of this repository use.

Keras' safe mode executes no code that comes with a file. But a file can name any class or function
of Keras, some of which read other files or start other programs, and people keep finding ways past
such a mode; so a file is refused here, before Keras sees it, if it names anything else than these.
"""

import json
import zipfile
from pathlib import Path

MEMBERS = ["metadata.json", "config.json", "model.weights.h5"]
# A test builds the network of each backbone and compares; a new backbone may need more.
CLASSES = frozenset(
    f"{module}.{name}"
    for module, names in {
        None: "__ellipsis__ __keras_tensor__ __tensor__",
        "keras": "DTypePolicy Sequential",
        "keras.initializers": "GlorotUniform HeNormal Ones VarianceScaling Zeros",
        "keras.layers": """Activation Add AveragePooling2D BatchNormalization Concatenate Conv2D
            Cropping2D Dense DepthwiseConv2D Dropout Flatten GlobalAveragePooling2D InputLayer
            LayerNormalization MaxPooling2D Multiply Normalization ReLU Rescaling Reshape
            SeparableConv2D Softmax ZeroPadding2D""",
        "keras.losses": "SparseCategoricalCrossentropy",
        "keras.optimizers": "Adam",
        "keras.src.applications.convnext": "LayerScale",
        "keras.src.applications.inception_resnet_v2": "CustomScaleLayer",
        "keras.src.models.functional": "Functional",
        "keras.src.ops.numpy": "Add GetItem Multiply Stack Subtract TrueDivide",
    }.items()
    for name in names.split()
)


def read_metadata_json(path: Path) -> dict:
    """Check a model file, all but its numbers, and read what its `metadata.json` says.

    Raises:
        ValueError: if the file holds anything that `model_file.save_model` does not write.
        OSError, zipfile.BadZipFile, KeyError, RuntimeError: if it is no such file, or damaged.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            # What is not compressed cannot unpack to more than the file itself.
            if member.filename not in MEMBERS or member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"it holds {member.filename!r}, or holds it compressed")
        metadata = json.loads(archive.read("metadata.json"))
        check_config(json.loads(archive.read("config.json")))
    if not isinstance(metadata, dict):
        raise ValueError("its metadata.json holds no object")
    return metadata


def check_config(config: object) -> None:
    """Make sure that `config.json` of a `.keras` file, or a part of it, names none but `CLASSES`.

    Raises:
        ValueError: if it names something else.
    """
    if isinstance(config, dict):
        if "class_name" in config:
            module, name = config.get("module"), config["class_name"]
            full_name, registered_name = f"{module}.{name}", config.get("registered_name")
            # A registered name would count for more than module and class.
            if full_name not in CLASSES or registered_name not in (None, name):
                raise ValueError(f"its config.json names {full_name}, which no network here uses")
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            check_config(part)
