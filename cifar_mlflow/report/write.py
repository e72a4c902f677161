"""Write the report to a file and to its run."""

from cifar_mlflow.console import say
from cifar_mlflow.parameters import ReportParameters
from cifar_mlflow.paths import write_whole, written_to
from cifar_mlflow.report.collect import collect
from cifar_mlflow.report.page import render_page
from cifar_mlflow.store import tracking


def write_report(parameters: ReportParameters) -> None:
    """Write the page, complete or not at all.

    Raises:
        UsageError: there is no such run, or nothing to report.
    """
    output = written_to(parameters.output)
    with tracking.tracked_run("report") as run:
        tracking.log_parameters(parameters)
        text = render_page(collect(run.experiment_id, parameters.run_id))
        tracking.log_files(texts={"report.html": text})
        write_whole(output, text.encode())
    say("Report", str(output))
    say("Artifact", f"report.html of run {run.run_id}")
