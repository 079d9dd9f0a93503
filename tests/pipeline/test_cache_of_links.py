"""Outputs that are links to DVC's cache, as with a shared cache on another disk."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.project import ALL_STAGES, Project

MODELS = ("models/model.keras", "models/openvino")
DATA_IN_MEMORY = Path("/dev/shm")  # a file system of its own on Linux
ANY_LINK = "reflink,hardlink,symlink,copy"
UP_TO_DATE = "Data and pipelines are up to date.\n"
ONE_CHANGE_OF_EACH_STAGE = {
    "download.sha256=null": [],  # nothing changed: the committed run is in the cache by now
    "prepare.validation_fraction=0.2": ALL_STAGES[1:],
    "model.conv1_filters=4": ALL_STAGES[2:],
    "train.learning_rate=0.01": ALL_STAGES[2:],
    "evaluate.log_images=3": ALL_STAGES[3:],
}


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder on another file system."""
    if not DATA_IN_MEMORY.is_dir():
        pytest.skip(f"no {DATA_IN_MEMORY}")
    with tempfile.TemporaryDirectory(dir=DATA_IN_MEMORY) as folder:
        yield Path(folder)


def clone(project: Project, links: str, cache: Path | None = None) -> Project:
    """A new clone of a project, with an empty cache from which it links its outputs."""
    root = project.root.parent / "clone"
    project.run("git", "clone", "--quiet", str(project.root), str(root))
    cloned = Project(root, Path(project.environment["HOME"]))
    cloned.run("dvc", "config", "cache.type", links)
    cloned.run("dvc", "config", "cache.dir", str(cache or root / ".dvc/cache"))
    cloned.commit()
    return cloned


def check_clean(project: Project, cache: Path | None = None) -> None:
    """Check that DVC finds no change, and that each file in its cache has its hash as name."""
    assert project.run("dvc", "status").stdout == UP_TO_DATE
    files = list((cache or project.root / ".dvc/cache").glob("files/md5/*/*"))
    assert len(files) > len(ALL_STAGES)
    for path in files:
        name = f"{path.parent.name}{path.name}".removesuffix(".dir")
        assert hashlib.md5(path.read_bytes()).hexdigest() == name, path


def remove(path: Path) -> None:
    """Delete a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def test_a_new_clone_runs_with_links(project: Project):
    cloned = clone(project, "symlink")
    assert cloned.experiment() == ALL_STAGES
    for path in ("model.keras", "openvino/model.xml", "openvino/model.bin"):
        assert (cloned.root / "models" / path).is_symlink()
    cloned.run("python", "src/train.py")
    cloned.run("python", "src/evaluate.py")
    assert cloned.experiment() == []
    check_clean(cloned)


@pytest.mark.exhaustive
@pytest.mark.parametrize("links", [ANY_LINK, "symlink", "hardlink", "copy"])
def test_stages_experiments_and_commands_with_links(project: Project, links: str, elsewhere: Path):
    cache = elsewhere if links == ANY_LINK else None
    cloned = clone(project, links, cache)
    assert cloned.experiment() == ALL_STAGES
    for change, stages in ONE_CHANGE_OF_EACH_STAGE.items():
        assert cloned.experiment(change) == stages
        check_clean(cloned, cache)
    for name in cloned.experiment_commits():
        cloned.run("dvc", "exp", "apply", name)
        check_clean(cloned, cache)

    before = cloned.files("data", "models", "dvclive")
    for path in ("data/raw", "data/prepared", *MODELS, "dvclive/evaluate/predictions.csv"):
        remove(cloned.root / path)
    cloned.run("dvc", "checkout")
    assert cloned.files("data", "models", "dvclive") == before

    cloned.run("python", "src/predict.py", "data/raw")
    cloned.run("python", "src/report.py")
    cloned.write_sweep("train.learning_rate: {choices: [0.01, 0.02]}")
    cloned.run("python", "src/sweep.py", "sweeps/quick.yaml")
    for stage in ALL_STAGES:
        cloned.run("python", f"src/{stage}.py")
    cloned.experiment()
    check_clean(cloned, cache)


@pytest.mark.parametrize("first", ["stages", "DVC"])
@pytest.mark.fault(
    "Disk", "outputs are links to files gone from DVC's cache", "replaced, and the run succeeds"
)
def test_links_to_files_that_are_gone(project: Project, first: str):
    project.run("dvc", "config", "cache.type", "symlink")
    project.run("dvc", "checkout", "--relink")
    outputs = [path for name in ("models", "dvclive") for path in (project.root / name).rglob("*")]
    targets = {path.readlink() for path in outputs if path.is_symlink()}
    assert len(targets) > 6
    for path in targets:
        path.unlink()
    own = project.root / "data/photos"
    own.symlink_to("/a disk that is not mounted")
    if first == "stages":
        project.run("python", "src/train.py")
        project.run("python", "src/evaluate.py")
    assert project.experiment("train.learning_rate=0.01")[-2:] == ["train", "evaluate"]
    check_clean(project)
    assert own.is_symlink()  # it is no output
