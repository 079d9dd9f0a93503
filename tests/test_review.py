"""src/review.py: what it writes and prints, and the way from its findings to corrected data."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers.http_server import serve_folder
from helpers.images import write_image
from helpers.made_experiments import data_of
from helpers.made_features import clusters
from helpers.made_prepared import write_prepared
from helpers.project import ON_FEATURES, Project
from image_classifier.common.hashing import sha256_of
from image_classifier.computing.corrections import Correction, write_corrections
from image_classifier.computing.prepared import SPLITS, ImageRecord

COLORS = {"blue": (60, 60, 200), "green": (60, 200, 60), "red": (200, 60, 60)}
NAMES = list(COLORS)
COUNT = 90
HELD_OUT = {"validation": range(60, 75), "test": range(75, 90)}
WRONG_LABELS = [4, 31, 64, 80]  # of which the label is that of the next class
KINDS = ["label", "near_duplicate", "outlier", "quality"]
SCRIPT = ("python", "src/review.py")


def split_of(row: int) -> str:
    return next((split for split, rows in HELD_OUT.items() if row in rows), "train")


def write_data(root: Path, address: str = "") -> None:
    """Images, and features of a frozen backbone, of which the review finds mistakes of all kinds.

    With an address, the images are not in data/raw but below this URL.
    """
    features, labels = clusters(3, COUNT // 3, spread=0.5, seed=1)
    labels[WRONG_LABELS] = (labels[WRONG_LABELS] + 1) % 3
    features[75] = features[0] + 0.01  # of the same class
    features[50] = 5 * np.random.default_rng(9).normal(size=features.shape[1])
    records = []
    for row, label in enumerate(labels):
        name = f"{NAMES[label]}/{row:02}.png"
        path = root / "data/raw" / name
        write_image(path, COLORS[NAMES[label]], seed=row)
        if row == 20:
            write_image(path, (0, 0, 0), seed=row)
        records.append(ImageRecord(address + name, NAMES[label], split_of(row), sha256_of(path)))
    arrays = {
        split: features[np.newaxis, [row for row in range(COUNT) if split_of(row) == split]]
        for split in SPLITS
    }
    write_prepared(records, arrays, root)


@pytest.fixture(scope="module")
def prepared(
    make_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A project with images of which the review finds mistakes of all kinds."""
    project = make_project(tmp_path_factory.mktemp("prepared"))
    write_data(project.root)
    return project


@pytest.fixture
def project(prepared: Project, tmp_path: Path) -> Project:
    return prepared.copy(tmp_path / "project")


def outputs(project: Project) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in project.root.glob("*review*")}


def test_the_command_writes_a_page_and_a_table(project: Project):
    before = project.run("git", "status", "--short").stdout
    data = project.files("data")
    project.environment["PYTHONWARNINGS"] = "error"
    done = project.run(*SCRIPT)
    del project.environment["PYTHONWARNINGS"]  # DVC itself gives warnings
    page, table, *counts = done.stdout.splitlines()
    assert page.startswith(f"{project.root / 'review.html'}: 90 images, 0.")
    assert done.stderr == ""
    rows = project.rows("review.csv")
    assert table == f"{project.root / 'review.csv'}: {len(rows)} findings"
    kinds = [row["finding"] for row in rows]
    assert [line.split() for line in counts] == [[kind, str(kinds.count(kind))] for kind in KINDS]
    assert list(rows[0]) == ["path", "split", "class", "finding", "suggested", "score"]
    assert kinds == sorted(kinds)  # which is the order of KINDS
    assert all(0 <= float(row["score"]) <= 1 for row in rows)

    # An image unlike all others may seem to show any class.
    labels = [row for row in rows if row["finding"] == "label" and "/50." not in row["path"]]
    assert len(labels) >= len(WRONG_LABELS) - 1
    for row in labels:
        number = int(Path(row["path"]).stem)
        assert number in WRONG_LABELS and row["suggested"] == NAMES[number % 3]
        given = NAMES[(number + 1) % 3]
        assert (row["path"], row["split"], row["class"]) == (
            f"{given}/{number:02}.png",
            split_of(number),
            given,
        )
    pair = next(row for row in rows if row["finding"] == "near_duplicate")
    assert (pair["path"], pair["split"]) == ("blue/00.png", "train")
    assert pair["suggested"] == "blue/75.png"
    assert next(row["path"] for row in rows if row["finding"] == "outlier")[-6:] == "50.png"
    quality = [(row["path"], row["suggested"]) for row in rows if row["finding"] == "quality"]
    assert quality == [("red/20.png", "dark")]

    shown = data_of(project.root / "review.html")
    assert shown["found"] == {kind: kinds.count(kind) for kind in KINDS}
    assert shown["editable"] == ["train", "validation"]
    assert shown["table_sha256"] == sha256_of(project.root / "data/prepared/images.csv")
    assert all(shown["sources"]) and len(shown["sources"]) == len(shown["images"])
    assert sum(shown["counts"]["total"]) == COUNT

    assert project.run("git", "status", "--short").stdout == before
    assert project.files("data") == data
    first = outputs(project)
    assert set(first) == {"review.csv", "review.html"}
    # Again, during an experiment.
    project.run_during_experiment("src/review.py")
    assert outputs(project) == first  # nothing depends on the time


def test_wrong_arguments_give_a_one_line_error_and_keep_the_results(project: Project):
    for name in ("review.html", "review.csv"):
        (project.root / name).write_text("earlier")
    allowed = "allowed: a file in an existing folder, not .csv as its table"
    for option, value, message in (
        ("--output", "/", f"found '/'; {allowed}"),
        ("--output", "review.csv", f"found 'review.csv'; {allowed}"),
        ("--output", "missing/page.html", f"found 'missing/page.html'; {allowed}"),
        ("--splits", "tests", "invalid choice: 'tests'"),
    ):
        done = project.run(*SCRIPT, option, value, fails=True)
        assert f"error: argument {option}: {message}" in done.stderr.splitlines()[-1]
        assert done.returncode == 2
    assert set(outputs(project).values()) == {b"earlier"}


@pytest.mark.fault(
    "Data",
    "review without prepared data",
    "one-line error that names the file, earlier results stay",
)
def test_missing_data_give_a_one_line_error_and_keep_the_results(project: Project):
    for name in ("review.html", "review.csv"):
        (project.root / name).write_text("earlier")
    (project.root / "data/prepared/train-00000.npy").unlink()
    assert project.error(*SCRIPT).startswith("error: data/prepared/train-00000.npy: ")
    shutil.rmtree(project.root / "data/prepared")
    line = project.error(*SCRIPT)
    assert line.startswith("error: data/prepared/images.csv not found; `dvc exp run` or src/pre")
    assert set(outputs(project).values()) == {b"earlier"}


@pytest.mark.fault(
    "Network", "remote images on the page of a review are gone", "a page without them"
)
def test_only_the_remote_images_on_the_page_are_fetched(
    project: Project, tmp_path: Path, capfd: pytest.CaptureFixture
):
    served = tmp_path / "served"
    with serve_folder(served) as address:
        write_data(project.root, f"{address}/")
        shutil.move(project.root / "data/raw", served)
        (gone,) = served.rglob("04.png")
        gone.unlink()
        done = project.run(*SCRIPT)
    note, *counts = done.stdout.splitlines()[2:]
    assert note == "quality is not checked: the images are not on this machine"
    assert [line.split()[0] for line in counts] == KINDS and counts[-1].split()[1] == "0"
    shown = data_of(project.root / "review.html")
    paths = [image["path"] for image in shown["images"]]
    assert [path for path, source in zip(paths, shown["sources"], strict=True) if not source] == [
        f"{address}/{gone.relative_to(served).as_posix()}"
    ]
    # The server prints a line for each request.
    asked = {line.split()[6] for line in capfd.readouterr().err.splitlines() if "GET" in line}
    assert {f"{address}{path}" for path in asked} == set(paths) and len(paths) < COUNT / 2


def test_a_later_page_has_the_corrections_that_were_applied(project: Project):
    """Otherwise a file saved from it would lose them."""
    corrections = [Correction("a" * 64, "blue/01.png", ""), Correction("b" * 64, "x.png", "red")]
    write_corrections(corrections, project.root / "data/prepared/corrections.csv")
    project.run(*SCRIPT, "--splits", "train", "test", "--output", "data/2nd review.page.html")
    assert set(outputs(project)) == set()
    shown = data_of(project.root / "data/2nd review.page.html")
    assert shown["corrections"] == [list(correction) for correction in corrections]
    assert shown["editable"] == ["train", "test"]
    assert len(project.rows("data/2nd review.page.csv")) == sum(shown["found"].values())


@pytest.mark.exhaustive
def test_wrong_classes_are_found_corrected_and_then_right(
    project: Project, images: Path, tmp_path: Path
):
    source = shutil.copytree(images, tmp_path / "images")
    wrong = {"blue": ["03", "11", "25"], "green": ["20", "02", "28"], "red": ["07", "19", "14"]}
    right = {}  # file name -> class
    for number, (name, stems) in enumerate(wrong.items()):
        for stem in stems:
            other = NAMES[(number + 1) % 3]
            (source / name / f"{stem}.png").rename(source / other / f"{name} {stem}.png")
            right[f"{name} {stem}.png"] = name
    project.set_params(ON_FEATURES)
    project.download(source)
    project.run("python", "src/prepare.py")
    project.run(*SCRIPT)

    found = [row for row in project.rows("review.csv") if row["finding"] == "label"]
    # A person keeps the others.
    found = [row for row in found if right.get(Path(row["path"]).name) == row["suggested"]]
    corrected = {Path(row["path"]).name: row["suggested"] for row in found}
    assert len(corrected) > len(right) / 2
    hashes = {row["path"]: row["sha256"] for row in project.rows("data/prepared/images.csv")}
    with (project.root / "corrections.csv").open("w", newline="") as file:
        rows = [(hashes[row["path"]], row["path"], row["suggested"]) for row in found]
        csv.writer(file).writerows([("sha256", "path", "class"), *rows])
    project.commit()
    # Without training, which would take longer than all of this.
    project.run("dvc", "exp", "run", "-S", "prepare.corrections=corrections.csv", "prepare")
    for row in project.rows("data/prepared/images.csv"):
        path = Path(row["path"])
        assert row["class"] == corrected.get(path.name, path.parent.name)

    project.run(*SCRIPT)
    found = [row for row in project.rows("review.csv") if row["finding"] == "label"]
    assert corrected.keys().isdisjoint(Path(row["path"]).name for row in found)
    shown = data_of(project.root / "review.html")
    assert sorted(map(tuple, shown["corrections"])) == sorted(rows)
