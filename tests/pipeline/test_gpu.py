"""Experiments on a machine with two GPUs, which are imitated."""

import json

import pytest

from helpers.project import REPOSITORY, Project

SYSTEM = "dvclive/system"
METRICS = f"{SYSTEM}/plots/metrics/system"
GPU_FILES = {
    f"{METRICS}/gpu/usage (%).tsv": ("usage (%)", 60),
    f"{METRICS}/vram/usage (GB).tsv": ("usage (GB)", 7),
}
CHARTS = {
    "CPU": {"cpu/usage (%).tsv", "gpu/usage (%).tsv"},
    "Memory": {"ram/usage (GB).tsv", "vram/usage (GB).tsv"},
}


@pytest.fixture
def on_gpu(project: Project) -> Project:
    """The project, whose last experiment ran without a GPU, on a machine that has two."""
    for path in GPU_FILES:
        assert project.rows(path) == []
    project.environment |= {
        "PYTHONPATH": str(REPOSITORY / "tests/helpers/nvml"),
        "IMITATED_NVML": "",
    }
    return project


def check_experiment(project: Project, name: str) -> None:
    """Check that an experiment has all samples in files that Git knew, and charts of them."""
    assert "??" not in project.run("git", "status", "--porcelain").stdout
    for path, (column, value) in GPU_FILES.items():
        *whole, last = project.rows(path)
        assert {float(row[column]) for row in whole} <= {value}
        assert 0 < float(last[column]) <= value  # it may cover less than a second
    revision = project.experiment_commits()[name]
    assert not project.run("git", "diff", revision, "--", SYSTEM).stdout
    listed = project.run("git", "ls-tree", "-r", "-z", "--name-only", revision, SYSTEM).stdout
    assert set(project.files(SYSTEM)) == set(listed.split("\0")) - {""}

    options = ("--split", "--json", "-o", ".dvc/tmp/plots")
    plots = json.loads(project.run("dvc", "plots", "diff", "HEAD", name, *options).stdout)
    assert not plots.get("errors")
    for chart, files in CHARTS.items():
        (plot,) = plots["data"][chart]
        rows = plot["anchor_definitions"]["<DVC_METRIC_DATA>"]
        shown = {(row["rev"], row["filename"]) for row in rows}
        assert shown == {*((name, file) for file in files), ("HEAD", min(files))}


def test_a_script_saves_the_use_of_gpus_in_its_experiment(on_gpu: Project):
    earlier = on_gpu.experiment_commits()
    done = on_gpu.run("python", "src/train.py")
    assert "untracked" not in done.stdout + done.stderr
    (name,) = on_gpu.experiment_commits().keys() - earlier.keys()
    check_experiment(on_gpu, name)


@pytest.mark.slow
def test_an_experiment_has_the_use_of_gpus(on_gpu: Project):
    done = on_gpu.run("dvc", "exp", "run", "--name", "on-gpu", "-S", "train.epochs=4")
    assert "untracked" not in done.stdout + done.stderr
    check_experiment(on_gpu, "on-gpu")


@pytest.mark.exhaustive
def test_a_gpu_that_is_lost_does_not_disturb_a_training(on_gpu: Project):
    on_gpu.environment["IMITATED_NVML"] = "lost"
    done = on_gpu.run("python", "src/train.py")
    assert not done.stderr
    for path in GPU_FILES:
        assert len(on_gpu.rows(path)) == 1
    assert on_gpu.rows(f"{METRICS}/cpu/usage (%).tsv")
