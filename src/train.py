"""Train the network, log each epoch, and save the model with the weights of the best one.

An interrupted training resumes after its last finished epoch.
"""

from image_classifier.common.script import run_stage

import os

from image_classifier.common.params import read_params
from image_classifier.common.stage_inputs import StageInputs
from image_classifier.computing.prepared import open_splits
from image_classifier.outputs.result_files import restore_outputs


def main() -> None:
    restore_outputs("train")
    inputs = StageInputs("train")
    params = read_params()
    class_names, (train, validation) = open_splits("train", "validation")

    if params.model.frozen and params.train.strategy == "none":
        # Only the classifier is trained: that takes less time than starting a GPU.
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    # Imported here: TensorFlow takes seconds to load, and errors in parameters come first.
    from image_classifier.outputs.live import (
        EVALUATE_LOG,
        SYSTEM_LOG,
        TRAIN_LOG,
        StageLog,
        SystemLog,
    )
    from image_classifier.outputs.result_files import set_aside
    from image_classifier.training import steps
    from image_classifier.training.callbacks import PrintEpochs
    from image_classifier.training.checkpoint import Checkpoint
    from image_classifier.training.model_file import MODEL_FILE

    training = steps.build(params, class_names, train, validation)
    identity = inputs.identity(*training.inputs)
    if not training.distribution.is_chief:
        steps.fit_beside_chief(training, identity)
        return

    with (
        StageLog(TRAIN_LOG, save_stage="train") as live,
        SystemLog(SYSTEM_LOG) as system,
        training.distribution.noticing_losses(),
        set_aside(EVALUATE_LOG),  # the test results of the earlier model
    ):
        steps.begin_log(live, params)
        checkpoint = Checkpoint(identity, params.train.patience, live, system)
        steps.fit(training, live, system, checkpoint, [PrintEpochs()])
        steps.log_validation(live, training, checkpoint)
        inputs.check_unchanged()
        steps.save(training, checkpoint, steps.translate(training))
    checkpoint.remove()
    accuracy = checkpoint.epoch_logs[checkpoint.best]["val_accuracy"]
    print(f"{MODEL_FILE}: best epoch {checkpoint.best + 1}, validation accuracy {accuracy:.4f}")


if __name__ == "__main__":
    run_stage(main)
