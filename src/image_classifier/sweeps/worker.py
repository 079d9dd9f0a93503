"""The process of trials: trains and evaluates one after another, with TensorFlow loaded once.

`TrialProcess` starts it in a copy of the repository, where params.yaml may be changed; the package
says what is sent to it and what it answers.
"""

import gc
import json
import os
import signal
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import TextIO

from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides

from image_classifier.common.params import PARAMS_FILE, Params, read_params
from image_classifier.common.script import run
from image_classifier.computing.prepared import open_splits
from image_classifier.computing.tensorflow_setup import keras
from image_classifier.evaluation.steps import log_test_results
from image_classifier.outputs.live import (
    EVALUATE_LOG,
    SYSTEM_LOG,
    TRAIN_LOG,
    StageLog,
    SystemLog,
    replacing,
)
from image_classifier.outputs.predicting import predict_probabilities
from image_classifier.training import steps
from image_classifier.training.checkpoint import Checkpoint

CHANGING = ("params.yaml", "models/model.keras")  # what stages depend on, from trial to trial


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for src/sweep.py, which ends this
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what training prints goes to the log

    params = PARAMS_FILE.read_text(encoding="utf-8")
    for line in sys.stdin:
        PARAMS_FILE.write_text(params, encoding="utf-8")
        try:
            set_params(json.loads(line))
            train_and_evaluate(read_params(), Ask(answers))
            record_stages()
            metrics = json.loads(Path(TRAIN_LOG, "metrics.json").read_text(encoding="utf-8"))
            answer(answers, metrics=metrics["best"]["eval"])
            gc.freeze()  # the collector need not go through TensorFlow's modules again and again
        except Exception as error:
            traceback.print_exc()
            answer(answers, error=" ".join(str(error).split()) or type(error).__name__)


class Ask(keras.callbacks.Callback):
    """Send the metrics of each epoch but the last, and stop if the reply is to."""

    def __init__(self, answers: TextIO) -> None:
        super().__init__()
        self._answers = answers
        self.stopped_after: int | None = None  # the number of the last epoch, from 1

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        if epoch + 1 == self.params["epochs"]:
            return
        metrics = {"accuracy": logs["val_accuracy"], "loss": logs["val_loss"]}
        answer(self._answers, epoch=epoch + 1, metrics=metrics)
        if json.loads(sys.stdin.readline() or '"stop"') == "stop":
            self.model.stop_training = True
            self.stopped_after = epoch + 1


def train_and_evaluate(params: Params, ask: Ask) -> None:
    """Do what src/train.py and src/evaluate.py do, from the first epoch on.

    The model file is neither read again nor checked against the images, which would take longer
    than all the rest. If the training is stopped early, this is recorded as train.stop_after, which
    stops it there again.
    """
    class_names, (train, validation, test) = open_splits("train", "validation", "test")
    # One object as long as the process lives: model files record which layers share it.
    dtype_policy = keras.config.dtype_policy()
    keras.utils.clear_session()
    keras.config.set_dtype_policy(dtype_policy)

    training = steps.build(params, class_names, train, validation)
    with StageLog(TRAIN_LOG) as live, SystemLog(SYSTEM_LOG) as system:
        steps.begin_log(live, params)
        checkpoint = Checkpoint(None, params.train.epochs, loggers=[live, system])
        steps.fit(training, live, system, checkpoint, [ask])
        if ask.stopped_after:
            set_params({"train.stop_after": ask.stopped_after})
            train_params = {**params.train.model_dump(), "stop_after": ask.stopped_after}
            live.log_params({"train": train_params})
        steps.log_best_epoch(live, checkpoint)
        steps.log_validation(live, training, checkpoint)
        steps.save(training, checkpoint)

    probabilities = predict_probabilities(training.model, test.views)
    with replacing(EVALUATE_LOG) as folder, StageLog(folder) as live:
        log_test_results(live, test, probabilities, class_names, params.evaluate)


def set_params(values: dict[str, object]) -> None:
    """Change params.yaml as `dvc exp run --set-param` does, to the byte."""
    apply_overrides(PARAMS_FILE, [f"{name}={value}" for name, value in values.items()])


def record_stages() -> None:
    """Put what the stages have left into DVC's cache and into dvc.lock.

    It is what `dvc commit --force train evaluate` does, but what stays the same from trial to trial
    is read once: data, sources, dvc.yaml and dvc.lock take longer than all the rest.
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
    """DVC's view of this copy of the repository, and its stages train and evaluate."""
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
