"""What a run prints, to a terminal and to a file."""

import re

import pytest

from helpers.project import ALL_STAGES, ON_FEATURES, Project
from helpers.terminal import run_in_terminal, screen

RATE, BOUND, NUMBER = r"[01]\.\d{4}", r"[01]\.\d{3}", r"\d+\.\d{4}"
EPOCH = rf"  +%d/2  +{RATE}  +{NUMBER}  +{RATE}  +{NUMBER}  +\d+\.\d"
PRINTED = {
    "download": ["data/raw: 90 images in 3 classes"],
    "prepare": [r"data/prepared: \d+ train, \d+ validation, \d+ test images"],
    "train": [
        "  epoch  train accuracy     loss  validation accuracy     loss  seconds",
        EPOCH % 1,
        EPOCH % 2,
        rf"models/model\.keras: best epoch [12], validation accuracy {RATE}",
    ],
    "evaluate": [
        rf"test\.accuracy  +{RATE}  \(95% interval: {BOUND} to {BOUND}\)",
        rf"([\w.]+  +{NUMBER}\n)+mistakes  +\d+ of \d+ test images",
        "",
        r"Look at  dvclive/evaluate/report\.html .*",
        "         dvc exp show --only-changed .*",
        "         dvc plots show .*",
        r"         python src/review\.py .*",
    ],
}


def check_printed(lines: list[str]) -> None:
    """Each stage prints its results as plain lines, and nothing else."""
    text = "\n".join(lines)
    for stage in ALL_STAGES:
        _, _, rest = text.partition(f"> python src/{stage}.py\n")
        printed = re.split("\n.*Updating lock file|\n\nRunning stage|\n\nRan experiment", rest)[0]
        assert re.fullmatch("\n".join(PRINTED[stage]), printed), printed


@pytest.mark.slow
def test_a_file_has_lines_only(project: Project):
    project.run("bash", "-c", "dvc exp run --force > ../run.log 2>&1")
    log = (project.root.parent / "run.log").read_bytes()
    assert b"\r" not in log and b"\x1b" not in log
    lines = log.decode().splitlines()
    assert len(lines) < 40
    check_printed(lines)


@pytest.mark.slow
def test_a_terminal_keeps_the_results_only(project: Project):
    command = ("dvc", "exp", "run", "--force")
    code, written = run_in_terminal(command, project.root, project.environment)
    assert code == 0, written
    for step in ("writing images", "checking images", "hashing images", "preparing images"):
        assert (f"{step}:   0%|" in written) == (step != "writing images")
    check_printed(screen(written))


@pytest.mark.slow
def test_a_sweep_prints_a_table_of_trials(project: Project):
    project.write_sweep("train.learning_rate: {choices: [0.004, 0.005]}", trials=2)
    done = project.run("python", "src/sweep.py", "sweeps/quick.yaml")
    first, header, *rows, empty, best, _, _, _, use = done.stdout.splitlines()[:10]
    assert (first, empty) == ("sweeps/quick.yaml: 0 of 2 trials are done", "")
    columns = ["trial", "experiment", "validation accuracy", "seconds", "learning_rate"]
    assert re.split(" {2,}", header.strip()) == columns
    names = []
    for number, row in enumerate(rows, start=1):
        place, name, accuracy, _, rate = row.split()
        assert place == f"{number}/2" and re.fullmatch(RATE, accuracy)
        assert rate in ("0.004", "0.005")
        names.append(name)
    name = re.fullmatch(rf"Best trial: (\S+), validation accuracy {RATE}", best)[1]
    assert name in names and use == f"To use it   dvc exp apply {name}"
    # params.yaml has one of these rates.
    assert "no better than the values" in done.stdout or "Is it luck? python" in done.stdout
    assert not done.stderr


@pytest.mark.slow
def test_warnings_of_libraries_stop_no_script(project: Project):
    project.set_params(ON_FEATURES)
    project.write_sweep("train.learning_rate: {choices: [0.004, 0.005]}", trials=2)
    project.environment["PYTHONWARNINGS"] = "error"
    for stage in ALL_STAGES:
        project.run("python", f"src/{stage}.py")
    project.run("python", "src/predict.py", "data/raw", "--explain", "../explained")
    project.run("python", "src/sweep.py", "sweeps/quick.yaml", "--jobs", "2")
    project.run("python", "src/report.py")
    project.run("python", "src/review.py")
