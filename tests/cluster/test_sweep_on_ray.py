"""Sweeps on the machines of a Ray cluster."""

import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
from dvc_data.hashfile.db import get_odb
from dvc_objects.fs import LocalFileSystem

from helpers.machines import Machines, another_version, missing
from helpers.project import Project, layouts, sweep_text
from helpers.running import Run, wait_until
from image_classifier.common.errors import InputError
from image_classifier.preparation.ray_cluster import connect
from image_classifier.sweeps import ray_files, ray_trials

SWEEP = ("python", "src/sweep.py", "sweeps/quick.yaml")


@pytest.fixture
def sweep(trained_project: Project) -> Project:
    """A project with a committed quick sweep."""
    trained_project.write_sweep(
        "train.learning_rate: {choices: [0.01, 0.001]}",
        "train.batch_size: {choices: [4, 8]}",
        metric="loss",
    )
    return trained_project


def commits_of(project: Project) -> dict[tuple[str, ...], str]:
    """Values of the varied parameters -> commit of the trial."""
    commits = project.experiment_commits()
    return {
        (trial["train.learning_rate"], trial["train.batch_size"]): commits[trial["experiment"]]
        for trial in project.trials()
    }


def left_on_machines(machines: Machines) -> list[str]:
    """Files of sweeps in the machines' temporary folder, and processes that run there."""
    base = machines.temporary / f"image-classifier-{os.getuid()}"
    return [str(path) for path in base.glob("*-*")] + working_below(base)


def working_below(folder: Path) -> list[str]:
    """Command lines of the processes that run trials or prepare data below a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd().startswith(str(folder)):
                found.append(" ".join(process.cmdline()))
    return [line for line in found if "ray::" not in line]


def wait_until_removed(machines: Machines) -> None:
    """Wait until no file of a sweep is left on the machines, and no process that runs there."""
    wait_until(lambda: not left_on_machines(machines))


@layouts("folder", "top")
@pytest.mark.slow
def test_a_sweep_that_loses_a_machine_equals_a_local_sweep(sweep: Project, machines: Machines):
    before = sweep.files("models", "dvclive", "data", ".dvc/config")
    with Run(sweep, (*SWEEP, "--ray", machines.address)) as run:
        run.seconds_until("1/4")
        machines.kill(machines.workers[0])
        run.finish()
    assert "machines: 2, trials at a time: 2\n" in run.output
    assert run.output.count(" was lost\n") == 1
    # Ray's own messages about the machine are not printed.
    assert len(run.output.splitlines()) < 20, run.output
    there = commits_of(sweep)
    assert [trial["state"] for trial in sweep.trials()] == ["complete"] * 4
    assert sweep.files("models", "dvclive", "data", ".dvc/config") == before
    assert sweep.run("git", "status", "--short").stdout == ""
    wait_until_removed(machines)

    # All its files are here, and equal those of a local sweep, except for dvclive/system.
    sweep.run("dvc", "exp", "apply", sweep.trials()[0]["experiment"])
    assert "up to date" in sweep.run("dvc", "status").stdout
    sweep.run("git", "reset", "--quiet", "--hard")
    shutil.rmtree(sweep.root / "sweeps/quick")
    sweep.run(*SWEEP)
    here = commits_of(sweep)
    assert here.keys() == there.keys()
    for values in here:
        sweep.check_same(here[values], there[values])
        sweep.check_other_files(there[values])


@pytest.mark.parametrize(
    ("number", "to_all", "code"),
    [(signal.SIGKILL, True, -signal.SIGKILL), (signal.SIGTERM, False, 143)],
)
@pytest.mark.exhaustive
def test_nothing_is_left_of_a_killed_sweep(
    sweep: Project, machines: Machines, number: signal.Signals, to_all: bool, code: int
):
    command = (*SWEEP, "--ray", machines.address)
    with Run(sweep, command) as run:
        run.seconds_until("1/4")
        assert left_on_machines(machines)
        run.signal(number, to_all)
        assert run.process.wait() == code
        assert "Traceback" not in run.output
        assert run.output.endswith("terminated\n") == (number == signal.SIGTERM)
    wait_until_removed(machines)

    done = sweep.run(*command)
    assert "0 of 4 trials are done" not in done.stdout
    assert [trial["state"] for trial in sweep.trials()] == ["complete"] * 4


@pytest.mark.exhaustive
def test_nothing_is_left_of_a_sweep_killed_while_a_machine_prepares(
    sweep: Project, machines: Machines
):
    sweep.set_params({"prepare": {"image_size": 32}})
    sweep.write_sweep("model.backbone: {choices: [efficientnet_lite0]}")
    with Run(sweep, (*SWEEP, "--ray", machines.address)) as run:
        run.wait_for(
            lambda: any("src/prepare.py" in line for line in working_below(machines.temporary))
        )
        run.signal(signal.SIGKILL, to_all=True)
    wait_until_removed(machines)


@pytest.mark.exhaustive
def test_a_sweep_uses_machines_that_join_later(sweep: Project, machines: Machines):
    for worker in machines.workers:
        machines.kill(worker)
    command = (*SWEEP, "--ray", machines.address)
    with Run(sweep, (*command, "--gpus-per-trial", "0.5")) as run:
        run.seconds_until("waiting for one")
        machines.add(num_gpus=1)
        run.seconds_until("1/4")
        assert run.process.poll() is None, run.output
        machines.add(num_gpus=1)
        run.finish()
    assert [trial["state"] for trial in sweep.trials()] == ["complete"] * 4


@pytest.mark.exhaustive
def test_a_failing_trial_is_not_repeated(sweep: Project, machines: Machines):
    sweep.set_params({"model": {"backbone": "efficientnet_lite0"}, "prepare": {"image_size": 32}})
    varied = ["model.weights: {choices: [nowhere.h5, random]}", "prepare.zoom: {choices: [0.1]}"]
    text = sweep_text(*varied, pruner="median")
    (sweep.root / "sweeps/grid.yaml").write_text(text)
    done = sweep.run("python", "src/sweep.py", "sweeps/grid.yaml", "--ray", machines.address)
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: model.weights: nowhere.h5 not found") == 1
    assert "`dvc repro prepare` failed" in done.stdout and " was lost" not in done.stdout
    trials = {trial["model.weights"]: trial for trial in sweep.trials("grid")}
    assert trials["nowhere.h5"]["state"] == "fail" and trials["random"]["state"] == "complete"
    # The features that a machine computed are here.
    sweep.run("dvc", "exp", "apply", trials["random"]["experiment"])
    assert "up to date" in sweep.run("dvc", "status").stdout


@pytest.mark.exhaustive
def test_a_machine_with_different_packages_is_not_used(
    sweep: Project, machines: Machines, tmp_path: Path
):
    for worker in machines.workers:
        machines.kill(worker)
    machines.add(env_vars=another_version(tmp_path / "other", "keras"))
    command = (*SWEEP, "--ray", machines.address)
    refusal = rf"not used: .*: found keras 1.2.3; allowed: {version('keras')}, as here\n"
    done = sweep.run(*command, fails=True)
    assert re.fullmatch(
        f"{refusal}error: no machine of the cluster can run trials; "
        "the reasons are printed above\n",
        done.stderr,
    )
    machines.add(env_vars=missing(tmp_path / "less", "dvc_data"))
    lack = r"not used: [\d.]+: ModuleNotFoundError: No module named 'dvc_data'\n"
    machines.add()
    done = sweep.run(*command)
    assert re.fullmatch(f"{refusal}{lack}|{lack}{refusal}", done.stderr) and "4/4" in done.stdout


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_a_missing_cluster_gives_a_one_line_error(address: str):
    pytest.importorskip("ray")
    with pytest.raises(InputError, match=rf"^Ray at {address}: .*; allowed: its head, as") as error:
        connect(address)
    assert "\n" not in str(error.value)


def test_a_sweep_on_a_missing_cluster_fails_with_one_line(project: Project):
    pytest.importorskip("ray")
    done = project.run("python", "src/sweep.py", "--ray", "127.0.0.1:1", fails=True)
    assert done.returncode == 1 and done.stdout == ""
    assert re.fullmatch(r"error: Ray at 127\.0\.0\.1:1: .*\n", done.stderr)


def test_files_arrive_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_trials, "BLOCK_BYTES", 1000)
    there, here = (get_odb(LocalFileSystem(), str(tmp_path / name)) for name in ("there", "here"))
    contents = {"aa1": b"", "ab2": b"short", "ac3": bytes(range(250)) * 12, "ad4": b"x" * 1001}
    for oid, content in contents.items():
        there.add_bytes(oid, content)
    for block in ray_trials.divide(there, contents):
        assert sum(min(1000, piece.size) for piece in block) < 2000
        sent = ray_trials.read_pieces(there, block)
        ray_trials.write_pieces(here, tmp_path, block, sent)
    arrived = {oid: Path(here.oid_to_path(oid)) for oid in contents}
    assert {oid: path.read_bytes() for oid, path in arrived.items()} == contents
    assert {path.stat().st_mode & 0o777 for path in arrived.values()} == {0o444}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "there"]


def make_files(base: Path, name: str) -> Path:
    (base / name).mkdir()
    (base / name / "file").touch()
    return base / name


def test_files_that_no_process_uses_are_removed(tmp_path: Path):
    killed, running = make_files(tmp_path, "killed"), make_files(tmp_path, "running")
    with ray_files.begin_use(tmp_path, "killed"), ray_files.begin_use(tmp_path, "running") as file:
        left = subprocess.Popen(["sleep", "1000"], cwd=killed)
        file_of_another = ray_files.begin_use(tmp_path, "running")
        file.close()
    assert left.wait() == -signal.SIGKILL
    wait_until(lambda: not (tmp_path / "killed.in_use").exists())
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["lock", "running", "running.in_use"]
    file_of_another.close()
    wait_until(lambda: not (tmp_path / "running.in_use").exists())
    assert not killed.exists() and not running.exists()


def test_files_that_cannot_be_removed_are_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = make_files(tmp_path, "used")
    (tmp_path / "used.in_use").touch()  # as after a loss of power: no process waits
    with monkeypatch.context() as patch:
        patch.setattr(ray_files.shutil, "rmtree", lambda *_, **__: None)
        ray_files.remove_unused(tmp_path)
        assert folder.exists()
    ray_files.remove_unused(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
