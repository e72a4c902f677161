"""The published study in one command: data, architectures, grid, evaluation and report."""

import sys

from rich.console import Console

from cifar_mlflow.command_line import DONE, FAILED, main
from cifar_mlflow.config import (
    DataParameters,
    EvaluateParameters,
    ReportParameters,
    StudyParameters,
    TrialConfig,
    expand,
)
from entry_points.data import data
from entry_points.evaluate import evaluate
from entry_points.grid import grid
from entry_points.report import report


def study(parameters: StudyParameters) -> int:
    networks = parameters.architectures()
    usual = parameters.grid(TrialConfig().architecture)
    if parameters.dry_run:
        # The grid is of the network that the comparison will find the best.
        return max(grid(networks), grid(usual))

    from cifar_mlflow import claims, resuming, tracking
    from cifar_mlflow.data import load
    from cifar_mlflow.terminal import say

    console = Console()
    key = claims.plan_key([*expand(networks), *expand(usual)], load(parameters.data_dir))
    with (
        tracking.tracked_run("study") as run,
        claims.claimed(
            run, key, parameters.resume, tell=lambda topic, text: say(console, topic, text)
        ) as before,
    ):
        tracking.log_parameters(parameters)
        done = resuming.adopt_parts(before)
        if before:
            say(console, "Resuming", f"with {', '.join(done) or 'no part'} finished")
        codes = []
        if "data" not in done:
            say(console, "Part", "the data")
            codes.append(data(parameters.part(DataParameters)))
        if "architectures" not in done:
            say(console, "Part", "the networks compared")
            codes.append(grid(networks))
        compared = tracking.parts()["architectures"]
        if compared.status != "FINISHED":
            missing = ", ".join(tracking.unfinished(compared, expand(networks)))
            reason = f"the comparison of the networks lacks {missing}"
            tracking.tag_end_reason(reason)
            print(f"study: {reason}; run the same command again", file=sys.stderr)
            return FAILED
        winner = compared.tags["best_architecture"]
        if "grid" not in done:
            say(console, "Part", f"the grid, of the network {winner}")
            codes.append(grid(parameters.grid(winner)))
        trained = tracking.parts()["grid"]
        if "best_run_id" in trained.tags:
            say(console, "Part", "the best model, and the report")
            best = trained.tags["best_run_id"]
            if "evaluate" not in done:
                codes.append(evaluate(parameters.part(EvaluateParameters, model=best)))
            codes.append(report(parameters.part(ReportParameters, study=trained.run_id)))
        if FAILED in codes:
            tracking.tag_end_reason("not every trial finished")
            return FAILED
        return DONE


if __name__ == "__main__":
    main(StudyParameters, "study", study)
