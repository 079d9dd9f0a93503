"""Finding experiments by name, and reading their files from Git and DVC's cache."""

import shutil
from pathlib import Path

import pytest

from helpers.made_experiments import save_experiment
from helpers.project import Project
from image_classifier.common.errors import InputError
from image_classifier.experiments.store import find_experiments

pytestmark = pytest.mark.usefixtures("inside_project")


def names_of(*names: str) -> list[str]:
    return [experiment.name for experiment in find_experiments(names)]


def test_experiments_of_the_current_commit_are_found_oldest_first(project: Project):
    save_experiment(project, "of-the-parent", {})
    (project.root / "new").touch()
    project.commit()
    save_experiment(project, "second", {}, time=20)
    first = save_experiment(project, "first", {}, time=10)
    assert names_of() == ["first", "second"]
    # Experiments of other commits are found by name, and all by revision; each once.
    assert set(names_of("of-the-parent", "second")) == {"of-the-parent", "second"}
    assert names_of(first[:10], "first") == ["first"]
    assert names_of("main") == ["main"]


def test_an_unknown_name_is_refused_and_the_nearest_suggested(project: Project):
    save_experiment(project, "brave-otter", {})
    with pytest.raises(InputError, match=r"brave-oter: .* did you mean 'brave-otter'?"):
        find_experiments(["brave-oter"])
    with pytest.raises(InputError, match=r"xyz: .* `dvc exp list` lists the experiments"):
        find_experiments(["xyz"])


def test_a_name_of_several_experiments_is_refused(project: Project):
    revision = save_experiment(project, "twice", {})
    for name in ("a", "b"):
        (project.root / name).touch()
        project.commit()
        save_experiment(project, "twice", {})
    assert names_of("twice") == ["twice"]  # the one of the current commit
    (project.root / "c").touch()
    project.commit()
    with pytest.raises(InputError, match="twice: experiments of several commits"):
        find_experiments(["twice"])
    assert [found.revision for found in find_experiments([revision])] == [revision]


def test_a_commit_without_experiments_is_reported(project: Project):
    with pytest.raises(InputError, match=r"no experiments of the current commit \([0-9a-f]{7}\)"):
        find_experiments([])


def test_files_are_read_from_git_and_from_the_cache(project: Project):
    outputs = {
        "predictions.csv": b"of this experiment",
        "images": {"sheet.png": b"one", "series/2.png": b"two"},
    }
    save_experiment(project, "cached", {"metrics.json": "{}", "plots/a.tsv": "step"}, outputs)
    save_experiment(project, "gone", {"dvc.lock": "not: [a lock"})
    cached, gone = find_experiments(["cached", "gone"])
    assert cached.read("metrics.json") == b"{}"
    assert cached.read("predictions.csv") == b"of this experiment"
    assert cached.read("images/series/2.png") == b"two"
    assert cached.find("images") == ["images/series/2.png", "images/sheet.png"]
    assert cached.find("plots") == ["plots/a.tsv"]
    assert cached.find("nowhere") == gone.find("images") == []
    assert cached.hash_of("images/sheet.png") == "f97c5d29941bfb1b2fdab0874906ab82"
    assert cached.hash_of("metrics.json") is None
    for experiment, path in ((cached, "images/none.png"), (cached, "images"), (gone, "a.csv")):
        with pytest.raises(FileNotFoundError):
            experiment.read(path)


def test_files_of_a_project_in_a_folder_of_a_larger_repository(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    nested = project.nest(tmp_path / "larger")
    monkeypatch.chdir(nested.root)
    files = {"metrics.json": "{}", "plots/a.tsv": "step"}
    save_experiment(nested, "made", files, {"table.csv": b"1"})
    # A commit without the folder of this project.
    without = nested.run("git", "commit-tree", "HEAD:src", "-m", "Test").stdout.strip()
    at_top = Project(nested.top, tmp_path / "home")
    save_experiment(at_top, "other", {"metrics.json": "of another project"}, time=1)
    made, other, earlier = find_experiments(["made", "other", without])
    assert made.read("metrics.json") == b"{}" and made.read("table.csv") == b"1"
    assert made.find("plots") == ["plots/a.tsv"]
    assert other.read("params.yaml") == (nested.root / "params.yaml").read_bytes()
    assert earlier.find("src") == []
    for experiment in (other, earlier):
        with pytest.raises(FileNotFoundError):
            experiment.read("metrics.json")


def test_files_removed_from_the_cache_are_missing(project: Project):
    save_experiment(project, "emptied", {}, {"table.csv": b"1", "images": {"a.png": b"2"}})
    shutil.rmtree(project.root / ".dvc/cache/files")
    (experiment,) = find_experiments([])
    assert experiment.find("images") == []
    assert experiment.hash_of("table.csv") and not experiment.cached_file("table.csv")
    for path in ("table.csv", "images/a.png"):
        with pytest.raises(FileNotFoundError):
            experiment.read(path)


def test_the_configured_cache_directory_is_used(project: Project, tmp_path: Path):
    project.run("dvc", "config", "cache.dir", str(tmp_path / "elsewhere"))
    save_experiment(project, "made", {}, {"table.csv": b"1"}, cache="../elsewhere")
    (experiment,) = find_experiments([])
    assert experiment.read("table.csv") == b"1"
    assert not (project.root / ".dvc/cache").exists()
