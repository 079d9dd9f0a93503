"""Train and evaluate one trial after another in one process: src/sweep.py starts this, not you.

A trial is what src/train.py and src/evaluate.py do, without loading TensorFlow anew. It runs in a
copy of the repository, where params.yaml may be changed. Requests and answers are lines of JSON.
"""

import gc
import json
import os
import signal
import sys
import threading
import traceback
from functools import cache
from pathlib import Path
from typing import TextIO

from image_classifier.errors import run
from image_classifier.params import PARAMS_FILE

CHANGING = ("params.yaml", "models/model.keras")  # what stages depend on, from trial to trial


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for src/sweep.py, which ends this
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what training prints goes to the log

    params = PARAMS_FILE.read_text(encoding="utf-8")
    for line in sys.stdin:
        parameters = json.loads(line)
        PARAMS_FILE.write_text(params, encoding="utf-8")
        try:
            metrics = run_trial(parameters, answers)
            answer(answers, metrics=metrics)
            gc.freeze()  # the collector need not go through TensorFlow's modules again and again
        except Exception as error:
            traceback.print_exc()
            answer(answers, error=" ".join(str(error).split()) or type(error).__name__)


def run_trial(parameters: dict, answers: TextIO) -> dict:
    """Train and evaluate with some parameters changed; returns the metrics of the best epoch."""
    from dvc.utils.hydra import apply_overrides

    import evaluate
    import train
    from image_classifier.tensorflow_setup import keras

    class AskAfterEachEpoch(keras.callbacks.Callback):
        """Tell how an epoch went, and stop if the answer is to."""

        stopped_after = None

        def on_epoch_end(self, epoch: int, logs: dict) -> None:
            if epoch + 1 == self.params["epochs"]:
                return
            metrics = {"accuracy": logs["val_accuracy"], "loss": logs["val_loss"]}
            answer(answers, epoch=epoch + 1, metrics=metrics)
            if json.loads(sys.stdin.readline() or '"stop"') == "stop":
                self.model.stop_training = True
                self.stopped_after = epoch + 1

    # One object as long as the process lives: model files record which layers share it.
    dtype_policy = keras.config.dtype_policy()
    keras.utils.clear_session()
    keras.config.set_dtype_policy(dtype_policy)
    # As `dvc exp run --set-param` does, to the byte.
    apply_overrides(PARAMS_FILE, [f"{name}={value}" for name, value in parameters.items()])
    ask = AskAfterEachEpoch()
    model = train.main(callbacks=[ask])
    if ask.stopped_after:
        apply_overrides(PARAMS_FILE, [f"train.stop_after={ask.stopped_after}"])
    evaluate.main(model)
    for thread in threading.enumerate():
        if thread.name.endswith("(_monitoring_loop)"):
            thread.join()  # it writes its last sample after the end

    record_stages()
    return json.loads(Path("dvclive/train/metrics.json").read_text())["best"]["eval"]


def record_stages() -> None:
    """Put what the scripts have left into DVC's cache and into dvc.lock.

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
    from dvc.repo import Repo

    repo = Repo()
    stages = [stage for stage in repo.index.stages if stage.name in ("train", "evaluate")]
    for stage in stages:
        stage.save_deps()
    return repo, stages


def answer(answers: TextIO, **values: object) -> None:
    """Send a line of JSON."""
    print(json.dumps(values), file=answers, flush=True)


if __name__ == "__main__":
    run(main)
