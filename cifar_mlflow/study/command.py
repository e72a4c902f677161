"""Print a study's plan, or run it: the entry points grid and architectures."""

from cifar_mlflow import console
from cifar_mlflow.errors import DONE, FAILED
from cifar_mlflow.parameters import StudyOptions, expand
from cifar_mlflow.study.plan import check_choice, outline, share_cores


def plan_or_run(parameters: StudyOptions) -> int:
    """Run a study, or only print its plan, which loads neither TensorFlow nor, with one seed, MLflow.

    Returns:
        The exit code: FAILED if a trial did not finish.

    Raises:
        UsageError: the plan is wrong, or `run_study` cannot run it.
    """
    trials = expand(parameters)
    check_choice(trials, parameters)
    if parameters.dry_run:
        for trial in trials:
            console.terminal.print(f"{trial.key}  {trial.name}", highlight=False)
        plan = outline(trials, *share_cores(len(trials), parameters))
        if parameters.refits:
            plan += "; then the best one again, on all training images"
        console.terminal.print(plan, highlight=False, soft_wrap=True)
        if 1 < len({trial.seed for trial in trials}) < len(trials):
            from cifar_mlflow.study.power import planned_power  # takes seconds to import

            power = planned_power(trials, parameters.select_by)
            console.terminal.print(power, highlight=False, soft_wrap=True)
        return DONE

    from cifar_mlflow.study.runner import run_study  # takes seconds to import

    return DONE if run_study(trials, parameters) else FAILED
