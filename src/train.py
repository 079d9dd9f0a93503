"""Fit the network, logging each epoch, and save the weights of the best one.

An interrupted training resumes after its last finished epoch.
"""

from image_classifier.common.params import read_params
from image_classifier.common.script import run
from image_classifier.common.stage_inputs import StageInputs
from image_classifier.computing.prepared import open_splits


def main() -> None:
    inputs = StageInputs("train")
    params = read_params()
    class_names, (train, validation) = open_splits("train", "validation")

    # Not at the top: TensorFlow takes seconds to import, and errors in parameters come first.
    from image_classifier.outputs.live import SYSTEM_LOG, TRAIN_LOG, StageLog, SystemLog
    from image_classifier.training import steps
    from image_classifier.training.checkpoint import Checkpoint

    training = steps.build(params, class_names, train, validation)
    identity = inputs.identity(*training.inputs)
    if not training.distribution.is_chief:
        steps.fit_beside_chief(training, identity)
        return

    with (
        StageLog(TRAIN_LOG, save_stage="train") as live,
        SystemLog(SYSTEM_LOG) as system,
        training.distribution.noticing_losses(),
    ):
        steps.begin_log(live, params)
        checkpoint = Checkpoint(identity, params.train.epochs, loggers=[live, system])
        steps.fit(training, live, system, checkpoint)
        steps.log_best_epoch(live, checkpoint)
        steps.log_validation(live, training, checkpoint)
        inputs.check_unchanged()
        steps.save(training, checkpoint)
    checkpoint.remove()


if __name__ == "__main__":
    run(main)
