"""Write the report to a file and to its run: the entry point report."""

from cifar_mlflow.console import say
from cifar_mlflow.parameters import ReportParameters
from cifar_mlflow.paths import written_to
from cifar_mlflow.report.collect import gather
from cifar_mlflow.report.page import page
from cifar_mlflow.store import tracking


def write_report(parameters: ReportParameters) -> None:
    """Write the page, whole or not at all.

    Raises:
        UsageError: there is no such run, or nothing to report.
    """
    output = written_to(parameters.output)
    with tracking.tracked_run("report") as run:
        tracking.log_parameters(parameters)
        material = gather(run.experiment_id, parameters.run_id)
        text = page(material)
        tracking.log_files(texts={"report.html": text})
    partial = output.with_name(f".{output.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(output)
    say("Report", str(output))
    say("Artifact", f"report.html of run {run.run_id}")
