"""The process that trains and evaluates one trial after another, loading TensorFlow once.

`TrialProcess` starts it in a copy of the project, where it may change params.yaml. The
docstring of the package describes the messages that it receives and sends.
"""

from image_classifier.common.script import run

import gc
import json
import os
import shutil
import signal
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import TextIO

from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides

from image_classifier.common.params import PARAMS_FILE, Params, read_params
from image_classifier.computing.prepared import open_splits
from image_classifier.evaluation.steps import log_test_results, predict_probabilities
from image_classifier.networks.tensorflow_setup import keras
from image_classifier.outputs.live import (
    EVALUATE_LOG,
    SYSTEM_LOG,
    TRAIN_LOG,
    StageLog,
    SystemLog,
)
from image_classifier.outputs.result_files import replacing
from image_classifier.training import steps
from image_classifier.training.checkpoint import Checkpoint

CHANGING = ("params.yaml", "models/openvino")  # dependencies that differ between trials

_earlier: dict[str, steps.Training] = {}  # by their structure


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for src/sweep.py, which kills this
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # training prints to the log

    params = PARAMS_FILE.read_text(encoding="utf-8")
    for line in sys.stdin:
        PARAMS_FILE.write_text(params, encoding="utf-8")
        try:
            set_params(json.loads(line))
            train_and_evaluate(read_params(), Ask(answers))
            record_stages()
            metrics = json.loads(Path(TRAIN_LOG, "metrics.json").read_text(encoding="utf-8"))
            answer(answers, metrics=metrics["best"]["eval"])
            gc.freeze()  # keeps the collector from scanning TensorFlow's modules each time
        except Exception as error:
            traceback.print_exc()
            answer(answers, error=" ".join(str(error).split()) or type(error).__name__)


class Ask(keras.callbacks.Callback):
    """Send the metrics of each epoch but the last, and stop if the reply is "stop"."""

    def __init__(self, answers: TextIO) -> None:
        super().__init__()
        self._answers = answers
        self.stopped_after: int | None = None  # number of the last epoch, from 1

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        if epoch + 1 == self.params["epochs"]:
            return
        metrics = {"accuracy": logs["val_accuracy"], "loss": logs["val_loss"]}
        answer(self._answers, epoch=epoch + 1, metrics=metrics)
        if json.loads(sys.stdin.readline() or '"stop"') == "stop":
            self.model.stop_training = True
            self.stopped_after = epoch + 1


def train_and_evaluate(params: Params, ask: Ask) -> None:
    """Train and evaluate as src/train.py and src/evaluate.py do, starting at the first epoch.

    The model file is neither read back nor checked against the images, which would take longer
    than everything else. If training is stopped early, the epoch is recorded as train.stop_after,
    so that repeating the experiment stops there too.
    """
    class_names, (train, validation, test) = open_splits("train", "validation", "test")
    if not params.model.frozen:  # then model files contain the names that Keras gives to layers
        # Always the same object in this process: model files record which layers share it.
        dtype_policy = keras.config.dtype_policy()
        keras.utils.clear_session()
        keras.config.set_dtype_policy(dtype_policy)
    # Otherwise placeholders would be drawn for the images of the trial before.
    shutil.rmtree(Path(TRAIN_LOG, "plots/images"), ignore_errors=True)

    training = steps.build(params, class_names, train, validation)
    earlier = _earlier.setdefault(steps.structure(params), training)
    if earlier is not training:
        training = steps.reuse(training, earlier)
    with StageLog(TRAIN_LOG, watched=False) as live, SystemLog(SYSTEM_LOG) as system:
        steps.begin_log(live, params)
        checkpoint = Checkpoint(None, params.train.patience, live, system)
        steps.fit(training, live, system, checkpoint, [ask])
        if ask.stopped_after:
            set_params({"train.stop_after": ask.stopped_after})
            train_params = {**params.train.model_dump(), "stop_after": ask.stopped_after}
            live.log_params({"train": train_params})
        steps.log_validation(live, training, checkpoint)
        translated = steps.translate(training)
        steps.save(training, checkpoint, translated)

    probabilities = predict_probabilities(translated, test.views)
    with replacing(EVALUATE_LOG) as folder, StageLog(EVALUATE_LOG, folder, watched=False) as live:
        log_test_results(live, test, probabilities, class_names, params.evaluate)


def set_params(values: dict[str, object]) -> None:
    """Change params.yaml exactly as `dvc exp run --set-param` does."""
    apply_overrides(PARAMS_FILE, [f"{name}={value}" for name, value in values.items()])


def record_stages() -> None:
    """Add the stages' outputs to DVC's cache and record them in dvc.lock.

    This is `dvc commit --force train evaluate`, except that data, sources, dvc.yaml and dvc.lock
    are read only once: they stay the same and take longer than everything else.
    """
    repo, stages = load_stages()
    with repo.lock:
        for stage in stages:
            for dependency in stage.deps:
                if dependency.def_path in CHANGING:
                    dependency.save()
            stage.save_outs()
            stage.commit(relink=False)
        stages[0].dvcfile.dump_stages(stages, update_pipeline=False)


@cache
def load_stages() -> tuple:
    """DVC's `Repo` of this copy of the project, and its stages train and evaluate."""
    repo = Repo()
    stages = [repo.stage.load_one(name=name) for name in ("train", "evaluate")]
    for stage in stages:
        stage.save_deps()
    return repo, stages


def answer(answers: TextIO, **values: object) -> None:
    """Send a line of JSON."""
    print(json.dumps(values), file=answers, flush=True)


if __name__ == "__main__":
    run(main)
