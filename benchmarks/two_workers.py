"""10. An epoch with two workers of one core each, compared with one worker of one core.

python benchmarks/two_workers.py /usr/share/datasets/fashion-mnist
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from measure import (
    make_environment,
    make_project,
    median_ratio,
    read_arguments,
    run,
    table,
    temporary_folder,
    write_section,
)

EPOCHS = 4  # the first traces, and is not counted


def main() -> None:
    arguments = read_arguments(__doc__.splitlines()[0], rounds=3)
    seconds: dict[str, list[float]] = {"one worker": [], "two workers": []}
    with temporary_folder() as folder:
        changes = {"train__epochs": EPOCHS, "train__log_images": 0, **dataset_of(arguments.photos)}
        one = make_project(folder / "one", "fashion_mnist", arguments.photos, **changes)
        run(["dvc", "repro", "prepare"], one)
        projects = [shutil.copytree(one, folder / name) for name in ("chief", "worker")]
        for project in projects:
            path = project / "params.yaml"
            path.write_text(path.read_text().replace("strategy: none", "strategy: multi_worker"))
        for _ in range(arguments.rounds):
            seconds["one worker"].append(epoch_seconds([one]))
            seconds["two workers"].append(epoch_seconds(projects))
    rows = [
        [name, f"{median(values):.1f}", f"{median_ratio(seconds['one worker'], values):.2f}"]
        for name, values in seconds.items()
    ]
    write_section(
        "10. Two workers",
        [
            *table(["train, from scratch", "an epoch, seconds", "times as fast"], rows),
            "",
            "The network and the batch size of presets/fashion_mnist.yaml, with `train.strategy` "
            "none and multi_worker. Each worker is a process with its own core; they communicate "
            f"over 127.0.0.1. Medians of {arguments.rounds} rounds, of {EPOCHS - 1} epochs each.",
        ],
    )


def dataset_of(photos: Path) -> dict[str, str]:
    """The parameters for the files of Fashion-MNIST, if `photos` contains them."""
    own = any(photos.glob("train-images-idx3-ubyte*")) if photos.is_dir() else False
    return {"download__dataset": "fashion_mnist"} if own else {}


def epoch_seconds(projects: list[Path]) -> float:
    """Train in all projects at once, each on its own core; the first is the chief."""
    ports = [free_port() for _ in projects]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    with tempfile.TemporaryFile("w+") as log:
        processes = [
            subprocess.Popen(
                ["taskset", "--cpu-list", str(index), "python", "src/train.py"],
                cwd=project,
                env={
                    **make_environment(),
                    "DVC_ROOT": str(project),  # no experiment is saved
                    "TF_CONFIG": json.dumps(
                        {"cluster": cluster, "task": {"type": "worker", "index": index}}
                    ),
                },
                stdout=log,
                stderr=log,
            )
            for index, project in enumerate(projects)
        ]
        codes = [process.wait() for process in processes]
        if any(codes):
            log.seek(0)
            sys.exit(log.read())
    table = (projects[0] / "dvclive/system/plots/metrics/epoch_seconds.tsv").read_text()
    return median(float(line.split("\t")[-1]) for line in table.splitlines()[2:])


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


if __name__ == "__main__":
    if os.cpu_count() < 2:
        sys.exit("two cores are required")
    main()
