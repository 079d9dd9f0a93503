"""Hidden experiments without a run: the files of a run, written directly to Git and DVC's cache."""

import csv
import hashlib
import io
import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from ruamel.yaml import YAML

from helpers.images import encoded, noisy_image
from helpers.project import Project

CACHE = ".dvc/cache"
Folder = Mapping[str, bytes]  # path within it -> content


def save_experiment(
    project: Project,
    name: str,
    files: Mapping[str, str],
    outputs: Mapping[str, bytes | Folder] | None = None,
    *,
    time: int = 0,
    cache: str = CACHE,
) -> str:
    """Save a hidden experiment of the current commit, as `dvc exp run` does; returns its revision.

    `files` are stored in Git and `outputs` in DVC's cache. `time` is in seconds.
    """
    if outputs is not None:
        outs = [
            {"path": path, "hash": "md5", "md5": cache_content(project.root / cache, content)}
            for path, content in outputs.items()
        ]
        lock = {"schema": "2.0", "stages": {"all": {"cmd": "run", "outs": outs}}}
        files = {**files, "dvc.lock": as_yaml(lock)}
    baseline = project.run("git", "rev-parse", "HEAD").stdout.strip()
    reference = f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}"
    commands = [
        f"commit {reference}",
        f"committer Test <test@example.org> {1_700_000_000 + time} +0000",
        "data 4\ntest",
        f"from {baseline}",
        *(
            f'M 100644 inline "{project.prefix}{path}"\ndata {len(text.encode())}\n{text}'
            for path, text in files.items()
        ),
        "",
    ]
    subprocess.run(
        ["git", "fast-import", "--quiet", "--force"],
        cwd=project.root,
        input="\n".join(commands).encode(),
        check=True,
    )
    return project.run("git", "rev-parse", reference).stdout.strip()


def cache_content(folder: Path, content: bytes | Folder) -> str:
    """Add an output to DVC's cache; returns its hash."""
    suffix = ""
    if not isinstance(content, bytes):
        entries = [
            {"md5": cache_content(folder, part), "relpath": path} for path, part in content.items()
        ]
        content, suffix = json.dumps(entries).encode(), ".dir"
    md5 = hashlib.md5(content).hexdigest() + suffix
    path = folder / "files/md5" / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return md5


def as_yaml(content: object) -> str:
    text = io.StringIO()
    YAML().dump(content, text)
    return text.getvalue()


def image_bytes(seed: int, size: tuple[int, int] = (24, 24)) -> bytes:
    """A noisy image as PNG, different for each seed."""
    return encoded(noisy_image(seed, size))


def data_of(page: Path) -> dict:
    """The data inside a page."""
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search('type="application/json">(.*?)</script>', text, re.DOTALL)[1])


def predictions_table(rows: Iterable[tuple[str, str, str, float]]) -> str:
    """predictions.csv with these rows: path, class, predicted class, its probability."""
    rows = list(rows)
    classes = sorted({name for row in rows for name in row[1:3]})
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["path", "class", "predicted", *classes])
    for path, class_name, predicted, probability in rows:
        rest = (1 - probability) / max(1, len(classes) - 1)
        outputs = [probability if name == predicted else rest for name in classes]
        writer.writerow([path, class_name, predicted, *(f"{output:.6f}" for output in outputs)])
    return file.getvalue()


def result_files(
    params: Mapping[str, Mapping[str, object]],
    rows: Iterable[tuple[str, str, str, float]],
    losses: Iterable[float] = (0.9, 0.5, 0.4),
) -> tuple[dict[str, str], dict[str, bytes | Folder]]:
    """Files and outputs of an experiment with these predictions and losses by epoch."""
    rows, losses = list(rows), list(losses)
    accuracy = sum(row[1] == row[2] for row in rows) / len(rows)
    classes = sorted({name for row in rows for name in row[1:3]})
    confusion = [{"actual": row[1], "predicted": row[2]} for row in rows]
    best = losses.index(min(losses)) + 1
    last = {"loss": losses[-1], "accuracy": accuracy}
    roc = [
        {"fpr": 0.0, "tpr": 0.0, "threshold": float("inf")},
        {"fpr": 0.0, "tpr": accuracy, "threshold": 0.5},
        {"fpr": 1.0, "tpr": 1.0, "threshold": 0.0},
    ]
    precision_recall = [
        {"precision": accuracy, "recall": 1.0, "threshold": 0.1},
        {"precision": 1.0, "recall": 0.0, "threshold": 0.9},
    ]
    calibration = [{"prob_true": 0.1, "prob_pred": 0.2}, {"prob_true": 1, "prob_pred": 0.9}]
    contents = {
        "train/metrics.json": {
            "train": last,
            "eval": last,
            "step": len(losses),
            "best": {"epoch": best, "eval": {"loss": min(losses), "accuracy": accuracy}},
        },
        "evaluate/metrics.json": {
            "test": {
                "calibration_error": 1 - accuracy,
                "f1": accuracy,
                "loss": losses[-1],
                "accuracy": accuracy,
            }
        },
        "evaluate/test_accuracy.json": {"low": accuracy / 2, "high": (1 + accuracy) / 2},
        "train/plots/sklearn/confusion_matrix.json": confusion,
        "evaluate/plots/sklearn/confusion_matrix.json": confusion,
        "evaluate/plots/sklearn/roc.json": {"roc": roc},
        "evaluate/plots/sklearn/precision_recall.json": {"precision_recall": precision_recall},
        "evaluate/plots/sklearn/calibration.json": {"calibration": calibration},
        "evaluate/plots/custom/per_class.json": [
            {"class": name, "f1": accuracy, "support": 1, "roc_auc": accuracy} for name in classes
        ],
    }
    files = {f"dvclive/{path}": json.dumps(content) for path, content in contents.items()}
    files["params.yaml"] = as_yaml({section: dict(values) for section, values in params.items()})
    for split in ("train", "eval"):
        lines = ["step\tloss", *(f"{step}\t{loss}" for step, loss in enumerate(losses, start=1))]
        files[f"dvclive/train/plots/metrics/{split}/loss.tsv"] = "\n".join([*lines, ""])
    seed = int(1000 * accuracy)
    outputs = {
        "dvclive/evaluate/predictions.csv": predictions_table(rows).encode(),
        "dvclive/evaluate/plots/images": {"mistakes.png": image_bytes(seed, (300, 200))},
        "dvclive/train/plots/images": {
            f"validation_predictions/{epoch}.jpg": image_bytes(epoch, (300, 200))
            for epoch in range(1, len(losses) + 1)
        },
    }
    return files, outputs
