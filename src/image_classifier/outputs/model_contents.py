"""Allow only numbers, and the Keras classes that this repository's networks use, in a model file.

Keras' safe mode executes no code from a file. But a file can name any class or function of Keras,
some of which read other files or start programs, and safe modes like this keep being bypassed. So
before Keras reads a file, it is refused if it names anything else.
"""

import json
import zipfile
from pathlib import Path

MEMBERS = ["metadata.json", "config.json", "model.weights.h5"]
# A test compares this with the network of each backbone; a new backbone may need more classes.
CLASSES = frozenset(
    f"{module}.{name}"
    for module, names in {
        None: "__ellipsis__ __keras_tensor__ __tensor__",
        "keras": "DTypePolicy Sequential",
        "keras.initializers": "GlorotUniform HeNormal Ones VarianceScaling Zeros",
        "keras.layers": """Activation Add AveragePooling2D BatchNormalization Concatenate Conv2D
            Cropping2D Dense DepthwiseConv2D Dropout Flatten GlobalAveragePooling2D
            GroupNormalization InputLayer LayerNormalization MaxPooling2D Multiply Normalization
            ReLU Rescaling Reshape SeparableConv2D Softmax ZeroPadding2D""",
        "keras.src.applications.convnext": "LayerScale",
        "keras.src.applications.inception_resnet_v2": "CustomScaleLayer",
        "keras.src.models.functional": "Functional",
        "keras.src.ops.numpy": "Add GetItem Multiply Stack Subtract TrueDivide",
    }.items()
    for name in names.split()
)


def read_metadata_json(path: Path) -> dict:
    """Check everything in a model file except its numbers, and return its `metadata.json`.

    Raises:
        ValueError: if the file contains anything that `model_file.save_model` does not write.
        OSError, zipfile.BadZipFile, KeyError, RuntimeError: if it is damaged or no model file.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            # Uncompressed members cannot unpack to more bytes than the file has.
            if member.filename not in MEMBERS or member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its member {member.filename!r} is unknown or compressed")
        metadata = json.loads(archive.read("metadata.json"))
        check_config(json.loads(archive.read("config.json")))
    if not isinstance(metadata, dict):
        raise ValueError("its metadata.json contains no JSON object")
    return metadata


def check_config(config: object) -> None:
    """Check that `config.json` of a `.keras` file, or a part of it, names only `CLASSES`.

    Raises:
        ValueError: if it names another class or function.
    """
    if isinstance(config, dict):
        if "class_name" in config:
            module, name = config.get("module"), config["class_name"]
            full_name, registered_name = f"{module}.{name}", config.get("registered_name")
            # For Keras, a registered name takes precedence over module and class.
            if full_name not in CLASSES or registered_name not in (None, name):
                raise ValueError(f"its config.json names {full_name}, which no network here uses")
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            check_config(part)
