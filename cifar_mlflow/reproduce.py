"""Reproduce the whole paper in one command: data, architectures, grid, evaluation and report."""

import sys

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.console import say
from cifar_mlflow.data.load import load
from cifar_mlflow.describe_data import describe_data
from cifar_mlflow.errors import DONE, FAILED
from cifar_mlflow.evaluate import evaluate_models
from cifar_mlflow.parameters import (
    DataParameters,
    EvaluateParameters,
    ReportParameters,
    ReproduceParameters,
    expand,
)
from cifar_mlflow.report.write import write_report
from cifar_mlflow.store import claims, query, resume, tracking
from cifar_mlflow.store.runs import BEST_ARCHITECTURE, BEST_RUN_ID, Status
from cifar_mlflow.study.command import plan_or_run


def reproduce(parameters: ReproduceParameters) -> int:
    """Run every part that an interrupted command has not finished, each as a child of one run.

    Returns:
        The exit code: FAILED if a trial did not finish.

    Raises:
        UsageError: as the parts do, or another command is reproducing the paper with these parameters.
    """
    networks = parameters.architectures()
    expected_grid = parameters.grid(TrialConfig().architecture)  # of the paper's best network
    key = claims.plan_key(
        [*expand(networks), *expand(expected_grid)],
        load(parameters.data_dir, parameters.image_size),
    )
    with (
        tracking.tracked_run("reproduce") as run,
        claims.claim(run, key, parameters.resume) as previous,
    ):
        tracking.log_parameters(parameters)
        done = resume.adopt_parts(previous)
        if previous:
            say("Resuming", f"with {', '.join(done) or 'no part'} finished")
        codes = [DONE]
        if "data" not in done:
            say("Part", "the data")
            describe_data(parameters.part(DataParameters))
        if "architectures" not in done:
            say("Part", "the networks compared")
            codes.append(plan_or_run(networks))
        compared = query.parts()["architectures"]
        if compared.status != Status.FINISHED:
            missing = ", ".join(query.unfinished(compared, expand(networks)))
            reason = f"the comparison of the networks is incomplete: {missing} did not finish"
            tracking.tag_end_reason(reason)
            print(f"reproduce: {reason}; run the same command again", file=sys.stderr)
            return FAILED
        winner = compared.tags[BEST_ARCHITECTURE]
        if "grid" not in done:
            say("Part", f"the grid of the network {winner}")
            codes.append(plan_or_run(parameters.grid(winner)))
        grid = query.parts()["grid"]
        if BEST_RUN_ID in grid.tags:
            say("Part", "the best model, and the report")
            best = grid.tags[BEST_RUN_ID]
            if "evaluate" not in done:
                evaluate_models(parameters.part(EvaluateParameters, model=best))
            write_report(parameters.part(ReportParameters, run_id=grid.run_id))
        if FAILED in codes:
            tracking.tag_end_reason("not every trial finished")
        return max(codes)
