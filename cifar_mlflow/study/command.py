"""Print a study's plan, or run it: the entry points grid, architectures and search."""

from cifar_mlflow import console
from cifar_mlflow.errors import DONE, FAILED
from cifar_mlflow.parameters import SearchParameters, StudyOptions, expand
from cifar_mlflow.study.plan import (
    check_choice,
    outline,
    outline_search,
    outline_space,
    share_cores,
)

THEN_REFIT = "; then the best one again, on all training images"


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
            console.line(f"{trial.key}  {trial.name}")
        _print_plan(outline(trials, *share_cores(len(trials), parameters)), parameters)
        if 1 < len({trial.seed for trial in trials}) < len(trials):
            from cifar_mlflow.study.power import planned_power  # takes seconds to import

            power = planned_power(trials, parameters.select_by)
            console.line(power)
        return DONE

    from cifar_mlflow.study.runner import run_study  # takes seconds to import

    return DONE if run_study(trials, parameters) else FAILED


def plan_or_search(parameters: SearchParameters) -> int:
    """The same for a search; its plan is the space, the rungs and the budget.

    Raises:
        UsageError: the plan is wrong, or `run_search` cannot run it.
    """
    check_choice(list(parameters.space.examples()), parameters)
    if parameters.dry_run:
        for topic, text in outline_space(parameters):
            console.line(f"{topic:<19}  {text}")
        cores = share_cores(parameters.most_at_once, parameters)
        _print_plan(outline_search(parameters, *cores), parameters)
        return DONE

    from cifar_mlflow.study.search import run_search  # takes seconds to import

    return DONE if run_search(parameters) else FAILED


def _print_plan(plan: str, parameters: StudyOptions) -> None:
    plan += THEN_REFIT if parameters.refits else ""
    console.line(plan)
