"""Hidden experiments made in a moment: what a run leaves in Git and DVC's cache, without a run."""

import csv
import hashlib
import io
import json
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

from conftest import Project

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
    """Save a hidden experiment of the current commit, as `dvc exp run` does.

    Args:
        project: where.
        name: of the experiment.
        files: path -> text, kept in Git.
        outputs: path -> content of outputs, kept in DVC's cache.
        time: when it was made, in seconds.
        cache: DVC's cache directory, relative to the project.

    Returns:
        Its revision.
    """
    if outputs is not None:
        outs = [
            {"path": path, "hash": "md5", "md5": _cache(project.root / cache, content)}
            for path, content in outputs.items()
        ]
        text = io.StringIO()
        YAML().dump({"schema": "2.0", "stages": {"all": {"cmd": "run", "outs": outs}}}, text)
        files = {**files, "dvc.lock": text.getvalue()}
    baseline = project.run("git", "rev-parse", "HEAD").stdout.strip()
    reference = f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}"
    commands = [
        f"commit {reference}",
        f"committer Test <test@example.org> {1_700_000_000 + time} +0000",
        "data 4\ntest",
        f"from {baseline}",
        *(
            f'M 100644 inline "{path}"\ndata {len(text.encode())}\n{text}'
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


def _cache(folder: Path, content: bytes | Folder) -> str:
    suffix = ""
    if not isinstance(content, bytes):
        entries = [{"md5": _cache(folder, part), "relpath": path} for path, part in content.items()]
        content, suffix = json.dumps(entries).encode(), ".dir"
    md5 = hashlib.md5(content).hexdigest() + suffix
    path = folder / "files/md5" / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return md5


def picture(seed: int, size: tuple[int, int] = (24, 24)) -> bytes:
    """A noisy picture as PNG; each seed gives another one."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def predictions_table(rows: Iterable[tuple[str, str, str, float]]) -> str:
    """predictions.csv of rows: path, class, predicted class, its probability."""
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
    """Files and outputs of an experiment that gave these predictions and losses by epoch."""
    rows, losses = list(rows), list(losses)
    accuracy = sum(row[1] == row[2] for row in rows) / len(rows)
    classes = sorted({name for row in rows for name in row[1:3]})
    confusion = json.dumps([{"actual": row[1], "predicted": row[2]} for row in rows])
    best = losses.index(min(losses)) + 1
    text = io.StringIO()
    YAML().dump({section: dict(values) for section, values in params.items()}, text)
    files = {
        "params.yaml": text.getvalue(),
        "dvclive/train/metrics.json": json.dumps(
            {
                "train": {"loss": losses[-1], "accuracy": accuracy},
                "eval": {"loss": losses[-1], "accuracy": accuracy},
                "step": len(losses),
                "best": {"epoch": best, "eval": {"loss": min(losses), "accuracy": accuracy}},
            }
        ),
        "dvclive/evaluate/metrics.json": json.dumps(
            {"accuracy": accuracy, "loss": losses[-1], "expected_calibration_error": 1 - accuracy}
        ),
        "dvclive/train/plots/sklearn/confusion_matrix.json": confusion,
        "dvclive/evaluate/plots/sklearn/confusion_matrix.json": confusion,
        "dvclive/evaluate/plots/sklearn/roc.json": json.dumps(
            {
                "roc": [
                    {"fpr": 0.0, "tpr": 0.0, "threshold": float("inf")},
                    {"fpr": 0.0, "tpr": accuracy, "threshold": 0.5},
                    {"fpr": 1.0, "tpr": 1.0, "threshold": 0.0},
                ]
            }
        ),
        "dvclive/evaluate/plots/sklearn/precision_recall.json": json.dumps(
            {
                "precision_recall": [
                    {"precision": accuracy, "recall": 1.0, "threshold": 0.1},
                    {"precision": 1.0, "recall": 0.0, "threshold": 0.9},
                ]
            }
        ),
        "dvclive/evaluate/plots/sklearn/calibration.json": json.dumps(
            {
                "calibration": [
                    {"prob_true": 0.1, "prob_pred": 0.2},
                    {"prob_true": 1, "prob_pred": 0.9},
                ]
            }
        ),
        "dvclive/evaluate/plots/custom/per_class.json": json.dumps(
            [{"class": name, "f1": accuracy, **Counter(support=1)} for name in classes]
        ),
    }
    for split in ("train", "eval"):
        lines = ["step\tloss", *(f"{step}\t{loss}" for step, loss in enumerate(losses, start=1))]
        files[f"dvclive/train/plots/metrics/{split}/loss.tsv"] = "\n".join([*lines, ""])
    seed = int(1000 * accuracy)
    outputs = {
        "dvclive/evaluate/predictions.csv": predictions_table(rows).encode(),
        "dvclive/evaluate/plots/images": {"mistakes.png": picture(seed, (300, 200))},
        "dvclive/train/plots/images": {
            f"validation_predictions/{epoch}.jpg": picture(epoch, (300, 200))
            for epoch in range(1, len(losses) + 1)
        },
    }
    return files, outputs
