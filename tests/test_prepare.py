"""Corrections of labels through `src/prepare.py`."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.fault_table import faulty
from helpers.http_server import serve_folder
from helpers.images import write_image
from helpers.project import Project
from image_classifier.common.hashing import sha256_of

Row = tuple[str, str, str]
APPLY = {"prepare": {"corrections": "corrections.csv"}}
COPY = "data/prepared/corrections.csv"


@pytest.fixture(scope="module")
def downloaded(
    make_project: Callable[[Path], Project],
    images: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    """A project whose dataset has a copy of red/00.png, and of red/01.png in another class."""
    source = shutil.copytree(images, tmp_path_factory.mktemp("copies") / "images")
    shutil.copy(source / "red/00.png", source / "red/copy.png")
    shutil.copy(source / "red/01.png", source / "blue/twin.png")
    project = make_project(tmp_path_factory.mktemp("project"))
    project.download(source)
    return project


@pytest.fixture
def project(downloaded: Project, tmp_path: Path) -> Project:
    return downloaded.copy(tmp_path / "project")


def write_rows(project: Project, *rows: Row) -> None:
    lines = ["sha256,path,class", *map(",".join, rows)]
    (project.root / "corrections.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def hash_of(project: Project, path: str) -> str:
    return sha256_of(project.root / "data/raw" / path)


def table(project: Project) -> dict[str, tuple[str, str]]:
    """Path -> class and split of the images."""
    rows = project.rows("data/prepared/images.csv")
    return {row["path"]: (row["class"], row["split"]) for row in rows}


def prepare(project: Project) -> list[str]:
    """Run the stage; returns what it prints after the numbers of images."""
    return project.run("python", "src/prepare.py").stdout.splitlines()[1:]


def test_corrections_are_applied_only_if_the_parameter_names_them(project: Project, tmp_path: Path):
    prepare(project)
    default, before, raw = project.files("data/prepared"), table(project), project.files("data/raw")
    assert COPY not in default

    excluded, moved = "red/00.png", "green/05.png"
    rows = [
        (hash_of(project, excluded), excluded, ""),
        (hash_of(project, "red/01.png"), "red/01.png", "red"),  # also in blue
        (hash_of(project, moved), "renamed since.png", "blue"),
        (hash_of(project, "blue/05.png"), "blue/05.png", "blue"),  # changes nothing
    ]
    write_rows(project, *rows)
    assert prepare(project) == [
        "2 images left out: found in more than one class, see 'contradiction' in "
        "data/prepared/images.csv"
    ]
    assert project.files("data/prepared") == default

    project.set_params(APPLY)
    expected = [
        "corrections.csv: 2 images relabelled, 2 left out",
        "2 images left out: by corrections, see 'excluded' in data/prepared/images.csv",
    ]
    assert prepare(project) == expected
    corrected = table(project)
    assert corrected[moved] == ("blue", before[moved][1])
    assert corrected[excluded] == corrected["red/copy.png"] == ("red", "excluded")
    assert corrected["red/01.png"] == corrected["blue/twin.png"]
    assert corrected["red/01.png"][0] == "red" and corrected["red/01.png"][1] != "contradiction"
    changed = {moved, excluded, "red/copy.png", "red/01.png", "blue/twin.png"}
    assert {path for path in before if before[path] != corrected[path]} == changed
    paths = {excluded: excluded, "red/01.png": "blue/twin.png", "renamed since.png": moved}
    applied = [(sha256, paths[path], name) for sha256, path, name in sorted(rows[:3])]
    assert [tuple(row.values()) for row in project.rows(COPY)] == applied
    assert project.files("data/raw") == raw

    # The same images in a list of URLs.
    with serve_folder(shutil.copytree(project.root / "data/raw", tmp_path / "raw")) as address:
        listed = [f"{address}/{path},{path.partition('/')[0]}\n" for path in before]
        (tmp_path / "list.csv").write_text("".join(["url,class\n", *listed]))
        project.download(tmp_path / "list.csv")
        assert prepare(project) == expected
        assert table(project) == {f"{address}/{path}": row for path, row in corrected.items()}


def test_a_correction_applies_to_an_image_of_any_name(project: Project):
    write_rows(project, (hash_of(project, "red/02.png"), "red/02.png", "green"))
    project.set_params(APPLY)
    red = project.root / "data/raw/red"
    (red / "02.png").rename(red / "another name.png")
    write_image(red / "02.png", (200, 60, 60), seed=1000)
    assert prepare(project)[0] == "corrections.csv: 1 image relabelled, 0 left out"
    assert table(project)["red/another name.png"][0] == "green"
    assert table(project)["red/02.png"][0] == "red"


REFUSED = "one-line error that names the parameter or the file, earlier results stay"
ALLOWED = "allowed: null, or a CSV file that stage prepare depends on in dvc.yaml: corrections.csv"


def refused(what: str, corrections: str, rows: list[Row] | None, message: str) -> object:
    return faulty("Data", f"corrections of labels: {what}", REFUSED, corrections, rows, message)


@pytest.mark.parametrize(
    ("corrections", "rows", "message"),
    [
        refused(
            "in a file on which the stage does not depend",
            "../other.csv",
            [],
            f"prepare.corrections: found '../other.csv'; {ALLOWED}",
        ),
        refused(
            "the file is missing",
            "./corrections.csv",
            None,
            "prepare.corrections: corrections.csv: not found; allowed: a CSV file with the columns",
        ),
        refused(
            "of an image that is not in the data",
            "corrections.csv",
            [("0" * 64, "red/gone.png", "blue")],
            "corrections.csv: 'red/gone.png': found the sha256 000",
        ),
    ],
)
def test_wrong_corrections_are_refused(
    project: Project, corrections: str, rows: list[Row] | None, message: str
):
    (project.root / "data/prepared").mkdir()
    (project.root / "data/prepared/images.csv").write_text("earlier")
    project.set_params({"prepare": {"corrections": corrections}})
    if rows is None:
        (project.root / "corrections.csv").unlink()
    else:
        write_rows(project, *rows)
    assert project.error("python", "src/prepare.py").startswith(f"error: {message}")
    assert project.files("data/prepared") == {"data/prepared/images.csv": b"earlier"}
