"""What a model file says about its training."""

from pathlib import Path

from helpers.project import REPOSITORY
from image_classifier.common.params import read_params
from image_classifier.computing.corrections import Correction, write_corrections
from image_classifier.outputs.metadata import Metadata, describe_training


def test_corrections_of_labels_are_counted(tmp_path: Path):
    params, table = read_params(REPOSITORY / "params.yaml"), tmp_path / "images.csv"
    table.write_text("path,class,split,sha256\n")
    trained_on = describe_training(params, table, 1000, 3, 0.9)
    assert trained_on.corrections == 0
    summary = Metadata(["cat", "dog"], trained_on).summary()
    assert summary.startswith("trained on 1,000 images of digits (2 classes: cat, dog) at 28x28")

    corrections = [Correction(f"{number:064}", "", "cat") for number in range(1200)]
    write_corrections(corrections, tmp_path / "corrections.csv")
    trained_on = describe_training(params, table, 1000, 3, 0.9)
    assert trained_on.corrections == 1200
    summary = Metadata(["cat", "dog"], trained_on).summary()
    assert "(2 classes: cat, dog; corrections of labels: 1,200) at 28x28" in summary
