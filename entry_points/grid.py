"""Train, evaluate and track every combination of the factors; register the best model."""

from rich.console import Console

from cifar_mlflow.command_line import DONE, FAILED, main
from cifar_mlflow.config import GridParameters, StudyOptions, expand


def grid(parameters: StudyOptions) -> int:
    trials = expand(parameters)
    console = Console()
    if parameters.dry_run:
        from cifar_mlflow.plan import outline, share_cores

        for trial in trials:
            console.print(f"{trial.key}  {trial.name}", highlight=False)
        plan = outline(trials, *share_cores(len(trials), parameters))
        console.print(plan, highlight=False, soft_wrap=True)
        return DONE

    from cifar_mlflow.study import run_study

    return DONE if run_study(trials, parameters, console) else FAILED


if __name__ == "__main__":
    main(GridParameters, "grid", grid)
