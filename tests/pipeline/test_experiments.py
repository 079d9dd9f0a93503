"""Experiments as a user runs them, with the commands in the README."""

import csv
import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from helpers.images import write_image
from helpers.made_experiments import data_of
from helpers.project import ALL_STAGES, ON_FEATURES, Project, differing, layouts, stages_run
from image_classifier.outputs.metadata import read_metadata
from image_classifier.training.model_file import load_model


def test_a_finished_run_is_up_to_date(project: Project):
    assert "up to date" in project.run("dvc", "status").stdout
    assert project.run("git", "status", "--short").stdout == ""
    assert project.experiment() == []
    assert "WARNING" not in project.run("dvc", "repro").stderr


def test_outputs_of_a_run(project: Project):
    train = json.loads((project.root / "dvclive/train/metrics.json").read_text())
    assert set(train) == {"train", "eval", "best", "learning_rate", "step"}
    assert train["step"] == 2
    for part in (train["train"], train["eval"], train["best"]["eval"]):
        assert set(part) == {"loss", "accuracy"}
    assert train["best"]["eval"]["accuracy"] >= train["eval"]["accuracy"]
    table = json.loads((project.root / "dvclive/train/best.json").read_text())
    assert table == {"best": {"eval": {"accuracy": train["best"]["eval"]["accuracy"]}}}
    test = json.loads((project.root / "dvclive/evaluate/metrics.json").read_text())["test"]
    assert set(test) == {"accuracy", "loss", "f1", "calibration_error"}
    assert test["accuracy"] > 0.9  # the classes differ in colour
    for split in ("train", "eval"):
        for name in ("loss", "accuracy"):
            rows = project.rows(f"dvclive/train/plots/metrics/{split}/{name}.tsv")
            assert [row["step"] for row in rows] == ["1", "2"]
            assert float(rows[-1][name]) == pytest.approx(train[split][name])
    rows = project.rows("dvclive/train/plots/metrics/learning_rate.tsv")
    rates = [float(row["learning_rate"]) for row in rows]  # of the last step of each epoch
    assert rates[0] > 0.0045 and rates[1] < 0.0005  # a warm-up to 0.005, then a cosine to 0
    rows = project.rows("dvclive/system/plots/metrics/epoch_seconds.tsv")
    assert [row["step"] for row in rows] == ["1", "2"]
    assert all(float(row["epoch_seconds"]) > 0 for row in rows)
    for name in ("cpu/usage (%)", "ram/usage (GB)"):
        rows = project.rows(f"dvclive/system/plots/metrics/system/{name}.tsv")
        assert rows and int(rows[0]["timestamp"]) > 1e12
    for name in (
        "train/report.html",
        "train/plots/images/validation_predictions/1.jpg",
        "train/plots/images/validation_predictions/2.jpg",
        "train/plots/images/worst_validation_predictions.jpg",
        "train/plots/sklearn/confusion_matrix.json",
        "evaluate/report.html",
        "evaluate/plots/images/mistakes.jpg",
    ):
        assert (project.root / "dvclive" / name).stat().st_size > 100
    predictions = project.rows("dvclive/evaluate/predictions.csv")
    right = sum(row["class"] == row["predicted"] for row in predictions)
    assert right / len(predictions) == pytest.approx(test["accuracy"])
    accuracy = json.loads((project.root / "dvclive/evaluate/test_accuracy.json").read_text())
    assert (accuracy["correct"], accuracy["images"]) == (right, len(predictions))
    assert accuracy["low"] < accuracy["accuracy"] == test["accuracy"] <= accuracy["high"]
    assert "test_accuracy_json" in (project.root / "dvclive/evaluate/report.html").read_text()


def test_reports_and_plots_open_without_a_network(project: Project):
    project.run("dvc", "plots", "show")
    for name in ("dvclive/train/report", "dvclive/evaluate/report", "dvc_plots/index"):
        page = (project.root / f"{name}.html").read_text(encoding="utf-8")
        assert "vegaEmbed" in page
        assert "<script src" not in page and "<link" not in page


def test_a_changed_parameter_runs_only_the_affected_stages(project: Project):
    before = project.experiments()
    done = project.run("dvc", "exp", "run", "--set-param", "train.learning_rate=0.1")
    assert stages_run(done.stdout) == ["train", "evaluate"]
    assert "WARNING" not in done.stderr
    models = project.files("models")
    (revision,) = project.experiments().keys() - before.keys()
    data = project.experiments()[revision]
    assert data["params"]["params.yaml"]["data"]["train"]["learning_rate"] == 0.1
    assert "accuracy" in data["metrics"]["dvclive/evaluate/metrics.json"]["data"]["test"]

    path = "dvclive/train/plots/metrics/eval/loss.tsv"
    table = project.run("git", "show", f"{revision}:{path}").stdout
    rows = list(csv.DictReader(io.StringIO(table), delimiter="\t"))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert table != project.run("git", "show", f"HEAD:{path}").stdout

    # Undo the experiment and apply it again: everything comes from the cache.
    project.run("git", "stash")
    project.run("dvc", "checkout")
    assert stages_run(project.run("dvc", "repro").stdout) == []
    other = project.files("models")
    assert other.keys() == models.keys()
    assert all((other[path] == models[path]) == path.endswith(".gitignore") for path in models)
    project.run("dvc", "exp", "apply", revision)
    assert project.files("models") == models
    assert "up to date" in project.run("dvc", "status").stdout
    assert project.run("git", "show", f"{revision}:{path}").stdout == table


@pytest.mark.slow
def test_an_experiment_has_its_corrections_of_labels(project: Project):
    row = next(row for row in project.rows("data/prepared/images.csv") if row["split"] == "test")
    name = "red" if row["class"] == "blue" else "blue"
    text = f"sha256,path,class\n{row['sha256']},{row['path']},{name}\n"
    (project.root / "corrections.csv").write_text(text)
    known = project.experiments()
    change = "prepare.corrections=corrections.csv"
    assert project.experiment(change) == ["prepare", "train", "evaluate"]
    (revision,) = project.experiments().keys() - known.keys()
    assert project.run("git", "show", f"{revision}:./corrections.csv").stdout == text
    column = project.experiments()[revision]["deps"]["corrections.csv"]
    assert column["hash"] == hashlib.md5(text.encode()).hexdigest()
    predictions = project.rows("dvclive/evaluate/predictions.csv")
    classes = {row["path"]: row["class"] for row in predictions}
    assert classes[row["path"]] == name
    assert read_metadata(project.root / "models/model.keras").trained_on.corrections == 1
    assert project.experiment(change) == []


def test_plots_compare_experiments_without_errors(project: Project):
    project.experiment("train.dropout=0.5")
    options = ("--split", "--json", "-o", ".dvc/tmp/plots")
    plots = json.loads(project.run("dvc", "plots", "diff", "HEAD", *options).stdout)
    assert not plots.get("errors")
    declared = YAML(typ="safe").load(project.root / "dvc.yaml")["plots"]
    charts = [next(iter(chart)) for chart in declared if isinstance(chart, dict)]
    # DVC keeps their order, and the extension with it.
    assert [name for name in plots["data"] if name in charts] == charts
    for name, entries in plots["data"].items():
        revisions = {revision for plot in entries for revision in plot["revisions"]}
        assert revisions == {"HEAD", "workspace"}, name


def test_the_report_shows_all_of_an_experiment(project: Project):
    project.experiment("train.dropout=0.5")
    project.run("python", "src/report.py")
    data = data_of(project.root / "experiments.html")
    (experiment,) = data["experiments"]
    assert experiment["problems"] == []
    names = [metric["name"] for metric in data["metrics"]]
    assert names[0] == "test.accuracy" and {"best.eval.accuracy", "train.loss"} < set(names)
    assert {curve["name"] for curve in data["training_curves"]} >= {"train/loss", "eval/accuracy"}
    assert all(data["test_curves"][name][0] for name in ("roc", "precision_recall", "calibration"))
    for split in ("test", "validation"):
        assert data["confusion"][split][0]["classes"] == ["blue", "green", "red"]
    assert len(data["images"]) == len(data["sheets"]) == 3 and all(data["images"])
    assert data["changed"]["common"][0][0] > 0


def test_a_fresh_clone_without_a_cache_compares_without_errors(project: Project, tmp_path: Path):
    project.run("git", "clone", "--quiet", str(project.root), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone", Path(project.environment["HOME"]))
    for folder in ("data", "models", "dvclive"):
        assert (clone.root / folder).is_dir()
    plots = json.loads(clone.run("dvc", "plots", "diff", "--split", "--json").stdout)
    assert not plots.get("errors")
    assert clone.experiments() == {}
    assert clone.experiment()[0] == "download"
    assert "up to date" in clone.run("dvc", "status").stdout
    clone.check_same("HEAD")  # to the last bit


def test_scripts_run_directly_repeat_the_run_and_save_an_experiment(project: Project):
    before, names = project.files("models", "dvclive"), project.experiments()
    for role in ("AUTHOR", "COMMITTER"):
        del project.environment[f"GIT_{role}_NAME"], project.environment[f"GIT_{role}_EMAIL"]
    done = project.run("python", "src/train.py")
    assert "WARNING" not in done.stderr
    project.run("python", "src/evaluate.py")
    after = project.files("models", "dvclive")
    assert before.keys() == after.keys() and not differing(before, after)
    assert len(project.experiments()) == len(names) + 1
    assert "up to date" in project.run("dvc", "status").stdout


def test_after_a_script_run_directly_dvc_runs_the_later_stages(project: Project):
    project.set_params({"train": {"learning_rate": 0.00001}})
    project.run("python", "src/train.py")
    status = project.run("dvc", "status").stdout
    assert "evaluate:" in status and "train:" not in status
    assert stages_run(project.run("dvc", "repro").stdout) == ["evaluate"]


@layouts("folder")
def test_a_project_in_a_folder_of_a_larger_repository(project: Project):
    project.run("git", "rm", "-r", "--quiet", "--cached", "dvclive/system")  # as with a new GPU
    project.run("git", "commit", "--quiet", "--message", "Test")
    assert project.experiment("train.dropout=0.5") == ["train", "evaluate"]
    (changed,) = set(project.experiments())
    tracked = project.run("git", "ls-tree", "-r", "--name-only", changed).stdout
    assert "dvclive/system/metrics.json" in tracked

    project.run("python", "src/train.py")
    revisions = set(project.experiments())
    assert len(revisions) == 2
    project.check_other_files(*revisions)

    project.run("git", "checkout", "--quiet", ".")
    project.run("dvc", "exp", "apply", changed)
    assert "up to date" in project.run("dvc", "status").stdout
    assert "dropout: 0.5" in (project.root / "params.yaml").read_text()
    project.run("python", "src/report.py", changed, "HEAD")
    data = data_of(project.root / "experiments.html")
    assert [experiment["problems"] for experiment in data["experiments"]] == [[], []]


def test_predictions_equal_those_of_the_evaluation(project: Project):
    evaluated = project.rows("dvclive/evaluate/predictions.csv")
    paths = [f"data/raw/{row['path']}" for row in evaluated]
    done = project.run("python", "src/predict.py", "--csv", "--top", "3", *paths)
    predicted = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["path"] for row in predicted] == paths
    for row, expected in zip(predicted, evaluated, strict=True):
        assert row["class"] == expected["predicted"]
        for place in ("", "_2", "_3"):
            probability = float(expected[row[f"class{place}"]])
            assert float(row[f"probability{place}"]) == pytest.approx(probability, abs=2e-6)

    count = list(project.splits().values()).count("train")
    assert f"trained on {count} images of image_folder (3 classes: blue, green, red)" in done.stderr
    best = json.loads((project.root / "dvclive/train/metrics.json").read_text())["best"]
    assert (
        f"cnn from random weights, epoch {best['epoch']} of 2, "
        f"validation accuracy {best['eval']['accuracy']:.3f}" in done.stderr
    )


def test_added_images_move_no_existing_image(project: Project, images: Path, tmp_path: Path):
    before = project.splits()
    source = shutil.copytree(images, tmp_path / "more images")
    for index in range(10):
        write_image(source / "red" / f"new {index}.png", (200, 60, 60), seed=2000 + index)
    assert project.experiment(f"download.source={source}") == ALL_STAGES
    after = project.splits()
    assert len(after) == len(before) + 10
    assert {path: after[path] for path in before} == before


def test_a_model_that_contradicts_the_prepared_data_is_detected(project: Project):
    array = np.load(project.root / "data/prepared/test-00000.npy")
    np.save(project.root / "data/prepared/test-00000.npy", 255 - array)
    (line,) = project.run("python", "src/evaluate.py", fails=True).stderr.splitlines()
    assert line.startswith("error: data/raw/") and ": its pixels differ on average by" in line


def test_arrays_for_another_network_are_an_error(project: Project):
    project.set_params({"prepare": {"image_size": 20}})
    found = "error: data/prepared: found arrays of shape"
    assert project.error("python", "src/train.py").startswith(f"{found} (16, 16, 3) per image")
    project.run("python", "src/prepare.py")
    assert project.error("python", "src/evaluate.py").startswith(f"{found} (20, 20, 3) per image")
    shutil.rmtree(project.root / "data/prepared")
    missing = "data/prepared/images.csv not found; `dvc exp run` or src/prepare.py creates it"
    assert missing in project.error("python", "src/train.py")


@pytest.mark.slow
def test_a_frozen_backbone_runs_once_for_many_experiments(project: Project):
    no_images = {"log_images": 0}
    project.set_params({**ON_FEATURES, "train": no_images, "evaluate": no_images})
    assert project.experiment() == ["prepare", "train", "evaluate"]
    features = np.load(project.root / "data/prepared/train-00000.npy")
    assert features.dtype == np.float32
    assert features.shape[0] == 2 and features.shape[2] == 1280
    assert (features[0] != features[1]).any()
    model, class_names, trained_on = load_model(project.root / "models/model.keras")
    assert trained_on.backbone == "efficientnet_lite0" and trained_on.image_size == 32
    assert model.input_shape == (None, 32, 32, 3) and class_names == ["blue", "green", "red"]

    assert project.experiment("train.learning_rate=0.01") == ["train", "evaluate"]
    assert not list((project.root / "dvclive/train/plots/images").iterdir())

    fine_tuned = project.experiment("model.fine_tune_layers=1", "train.epochs=2")
    assert fine_tuned == ["prepare", "train", "evaluate"]
    assert np.load(project.root / "data/prepared/train-00000.npy").dtype == np.uint8


def test_ten_classes_and_digits(project: Project):
    digits = ("download.dataset=digits", "download.source=null", "prepare.color_mode=grayscale")
    project.experiment(*digits, "train.epochs=1")
    metrics = json.loads((project.root / "dvclive/evaluate/metrics.json").read_text())
    assert metrics["test"]["accuracy"] > 0.3
    per_class = project.root / "dvclive/evaluate/plots/custom/per_class.json"
    assert [row["class"] for row in json.loads(per_class.read_text())] == list("0123456789")
