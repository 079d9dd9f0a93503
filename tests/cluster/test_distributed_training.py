"""Training on two machines, simulated by two processes, or on two devices of one machine."""

import json
import re
import shutil
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from helpers.project import AUGMENTED, RECIPE, Project, one_error
from helpers.running import Run

LARGEST_DIFFERENCE = 1e-3  # largest difference of a loss or an accuracy
TRAIN = ("python", "src/train.py")
# Everything random is on, and the last batch of 4 images is not a multiple of 3.
FROM_SCRATCH = {
    "prepare": AUGMENTED,
    "train": {
        **RECIPE,
        "learning_rate": 0.001,
        "batch_size": 15,
        "dropout": 0.2,
        "epochs": 3,
        "early_stopping": None,
    },
}
STOPPED_EARLY = {
    **FROM_SCRATCH,
    "train": {**FROM_SCRATCH["train"], "epochs": 12, "early_stopping": 2},
}
FINE_TUNED = {
    "prepare": {**AUGMENTED, "image_size": 32},
    "model": {"backbone": "efficientnet_lite0", "fine_tune_layers": 2},
    "train": FROM_SCRATCH["train"],
}
# Trains like train.py, on the number of devices in its argument.
MIRRORED = """
import sys
sys.path.insert(0, "src")
sys.argv[0] = "src/train.py"
from image_classifier.networks.tensorflow_setup import tf
(cpu,) = tf.config.list_physical_devices("CPU")
devices = [tf.config.LogicalDeviceConfiguration()] * int(sys.argv[1])
tf.config.set_logical_device_configuration(cpu, devices)
from image_classifier.common.script import run
from train import main
run(main)
"""


def addresses(count: int) -> list[str]:
    """Addresses with free ports."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{opened.getsockname()[1]}" for opened in sockets]


def tf_config(workers: list[str], index: int) -> str:
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


def prepare(project: Project, changes: dict, **train: object) -> Project:
    project.environment["DVC_ROOT"] = str(project.root)  # so that no experiment is saved
    project.set_params(changes)
    project.set_params({"train": train})
    for stage in ("download", "prepare"):
        project.run("python", f"src/{stage}.py")
    return project


def clone(project: Project, name: str) -> Project:
    """A copy of the project, as on another machine."""
    copied = project.copy(project.root.parent / name)
    copied.environment["DVC_ROOT"] = str(copied.root)
    return copied


def start(projects: list[Project], stack: ExitStack) -> list[Run]:
    """Start a training with one machine per project; the first is the chief."""
    workers = addresses(len(projects))
    runs = []
    for index, project in enumerate(projects):
        project.environment["TF_CONFIG"] = tf_config(workers, index)
        runs.append(stack.enter_context(Run(project, TRAIN)))
    return runs


def last_error(run: Run) -> str:
    """The last line of a run, which must be its only error."""
    line = one_error(run.output)
    assert run.output.splitlines()[-1] == line
    return line


def curves(project: Project) -> dict[str, list[float]]:
    """Losses and accuracies of all epochs, by name."""
    metrics = "dvclive/train/plots/metrics/"
    return {
        path.removeprefix(metrics): [float(row[Path(path).stem]) for row in project.rows(path)]
        for path in project.files(metrics)
        if path.endswith(("loss.tsv", "accuracy.tsv")) and "best" not in path
    }


def check_same_curves(found: dict[str, list[float]], expected: dict[str, list[float]]) -> None:
    assert sorted(found) == sorted(expected)
    assert len(found) == 4
    for name, values in expected.items():
        assert len(values) == len(expected["eval/loss.tsv"]) in range(3, 12)
        assert found[name] == pytest.approx(values, abs=LARGEST_DIFFERENCE), name
    losses = expected["train/loss.tsv"]
    assert len({round(loss, 3) for loss in losses}) == len(losses)  # the network has learnt


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(STOPPED_EARLY, id="from scratch"),
        pytest.param(FINE_TUNED, id="fine-tuning", marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.slow
def test_two_workers_train_like_one_and_resume_after_one_is_lost(project: Project, changes: dict):
    alone = prepare(project, changes)
    chief, worker = clone(alone, "chief"), clone(alone, "worker")
    alone.run(*TRAIN)
    for machine in (chief, worker):
        machine.set_params({"train": {"strategy": "multi_worker"}})
    shutil.rmtree(worker.root / "data/raw")  # the worker needs only its arrays
    before = worker.files("dvclive", "models", ".dvc/tmp")

    with ExitStack() as stack:
        runs = start([chief, worker], stack)
        runs[0].seconds_until(" 1/")
        runs[1].signal(signal.SIGKILL, to_all=True)
        assert runs[0].process.wait() == 1
        last = last_error(runs[0])
        assert re.match("error: TF_CONFIG: another worker was lost: .*; run the same", last)

    with ExitStack() as stack:
        runs = start([chief, worker], stack)
        assert [run.process.wait() for run in runs] == [0, 0], "\n".join(r.output for r in runs)
    assert "resuming the interrupted training after epoch" in runs[0].output
    check_same_curves(curves(chief), curves(alone))
    left = worker.files("dvclive", "models", ".dvc/tmp")
    assert left == before
    assert len(runs[1].output.splitlines()) == 1, runs[1].output

    # Any process can load the model.
    chief.run("python", "src/predict.py", "data/raw")


@pytest.mark.slow
def test_workers_stop_when_the_chief_is_lost(project: Project):
    chief = prepare(project, FROM_SCRATCH, strategy="multi_worker", epochs=1000)
    with ExitStack() as stack:
        runs = start([chief, clone(chief, "worker")], stack)
        runs[0].seconds_until(" 1/")
        runs[0].signal(signal.SIGKILL, to_all=True)
        assert runs[1].process.wait() == 1
        assert last_error(runs[1]).startswith("error: TF_CONFIG: another worker was lost: ")


@pytest.mark.exhaustive
def test_workers_with_other_parameters_are_refused(project: Project):
    chief = prepare(project, FROM_SCRATCH, strategy="multi_worker")
    worker = clone(chief, "worker")
    worker.set_params({"train": {"learning_rate": 0.002}})
    with ExitStack() as stack:
        for run in start([chief, worker], stack):
            assert run.process.wait() == 1
            reason = "found different sources, parameters or prepared data on worker 1"
            assert last_error(run).startswith(f"error: TF_CONFIG: {reason}")


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.exhaustive)])
@pytest.mark.slow
def test_devices_of_one_machine_train_like_one_device(project: Project, devices: int):
    alone = prepare(project, FROM_SCRATCH)
    mirrored = clone(alone, "mirrored")
    alone.run(*TRAIN)
    mirrored.set_params({"train": {"strategy": "mirrored"}})
    mirrored.run("python", "-c", MIRRORED, str(devices))
    check_same_curves(curves(mirrored), curves(alone))


WORKERS = ["127.0.0.1:1", "127.0.0.1:2"]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, r"not found; train.strategy: multi_worker requires it, for example \{.*\}$"),
        ("{", "not valid JSON: "),
        (json.dumps({"cluster": {"worker": WORKERS}}), "task: missing; allowed: "),
        (
            tf_config(WORKERS, 2),
            "task.index: found 2; the cluster has 2 tasks of type worker, allowed: below 2$",
        ),
        (
            tf_config(["nowhere"], 0),
            "cluster.worker: found 'nowhere'; allowed: a list of addresses, each as host:2222$",
        ),
        (tf_config(WORKERS, -1), "task.index: found -1; allowed: a whole number, 0 or more$"),
    ],
)
def test_a_wrong_tf_config_is_a_one_line_error(
    monkeypatch: pytest.MonkeyPatch, config: str | None, reason: str
):
    from image_classifier.common.errors import InputError
    from image_classifier.training.distribution import open_distribution

    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(InputError, match=f"^TF_CONFIG: {reason}") as error:
        open_distribution("multi_worker")
    assert "\n" not in str(error.value)


CONNECT = """
from image_classifier.training import distribution
from image_classifier.common.script import run
distribution.START_SECONDS = 2
run(lambda: distribution.open_distribution("multi_worker"))
"""


@pytest.mark.exhaustive
def test_unreachable_workers_are_a_one_line_error(project: Project):
    """The other worker does not exist, or the port is in use."""
    project.environment["PYTHONPATH"] = "src"
    workers = addresses(2)
    project.environment["TF_CONFIG"] = tf_config(workers, 0)
    line = project.error("python", "-c", CONNECT)
    refused = f"{workers[1]}: Connection refused for 2 seconds; start all workers"
    assert line.startswith(f"error: TF_CONFIG: {refused}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        here = f"127.0.0.1:{taken.getsockname()[1]}"
        project.environment["TF_CONFIG"] = tf_config([here, workers[1]], 0)
        line = project.error("python", "-c", CONNECT)
    assert line.startswith(f"error: TF_CONFIG: {here}: Address already in use")


@pytest.mark.exhaustive
def test_ctrl_c_while_waiting_for_the_others(project: Project):
    prepare(project, FROM_SCRATCH, strategy="multi_worker")
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        project.environment["TF_CONFIG"] = tf_config(addresses(2), 0)
        with Run(project, TRAIN) as run:
            run.seconds_until("waiting for 1 more")
            run.signal(number, to_all=True)
            assert run.process.wait() == code


def test_a_sweep_over_many_machines_is_refused(project: Project):
    project.set_params({"train": {"strategy": "multi_worker"}})
    line = project.error("python", "src/sweep.py", "sweeps/learning_rate.yaml")
    assert line.startswith("error: train.strategy: found 'multi_worker'")
