"""The entry point `train`; TrainParameters says what it does."""

import math
import sys

from cifar_mlflow.command_line import main
from cifar_mlflow.errors import DONE, FAILED
from cifar_mlflow.parameters import TrainParameters


def train(parameters: TrainParameters) -> int:
    from cifar_mlflow.console import say
    from cifar_mlflow.data.load import load
    from cifar_mlflow.formatting import counted, number
    from cifar_mlflow.store.runs import Status
    from cifar_mlflow.study.plan import share_threads
    from cifar_mlflow.study.trial import TrialOptions, run_trial

    data = load(parameters.data_dir, parameters.image_size)
    threads = share_threads(1, parameters)
    say("Data", str(data))
    epochs, on = counted(parameters.epochs, "epoch"), counted(threads, "thread")
    say("Trial", f"{parameters.trial.name}, {epochs}, {on}")
    options = TrialOptions(threads, parameters.tensorboard)
    run = run_trial(parameters.trial, data, options, parameters.resume, parameters)
    if run.status != Status.FINISHED:
        print(f"train: {run.end_reason}", file=sys.stderr)
        return FAILED
    names = ("kept_val_accuracy", "test_accuracy", "test_loss", "test_macro_recall")
    validation, test, loss, recall = (number(run.metrics.get(name, math.nan), 4) for name in names)
    balanced = "" if recall == test else f", balanced {recall}"
    say("Result", f"validation accuracy {validation}, test accuracy {test}{balanced}, loss {loss}")
    say("Model", str(run.model_uri))
    return DONE


if __name__ == "__main__":
    main(TrainParameters, "train", train)
