"""Print a study's plan, or run it: the entry points grid and architectures."""

from cifar_mlflow import console
from cifar_mlflow.errors import DONE, FAILED
from cifar_mlflow.parameters import StudyOptions, expand
from cifar_mlflow.study.plan import outline, share_cores


def plan_or_run(parameters: StudyOptions) -> int:
    """Do what ``parameters`` ask for, and give the exit code; a plan starts without MLflow."""
    trials = expand(parameters)
    if parameters.dry_run:
        for trial in trials:
            console.terminal.print(f"{trial.key}  {trial.name}", highlight=False)
        plan = outline(trials, *share_cores(len(trials), parameters))
        console.terminal.print(plan, highlight=False, soft_wrap=True)
        return DONE

    from cifar_mlflow.study.runner import run_study

    return DONE if run_study(trials, parameters) else FAILED
