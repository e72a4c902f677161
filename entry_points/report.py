"""Write the whole study as one HTML page, from tracked runs alone."""

from rich.console import Console

from cifar_mlflow.command_line import DONE, main
from cifar_mlflow.config import ReportParameters, written_to


def report(parameters: ReportParameters) -> int:
    from cifar_mlflow import tracking
    from cifar_mlflow.material import gather
    from cifar_mlflow.report import page
    from cifar_mlflow.terminal import say

    output = written_to(parameters.output)
    with tracking.tracked_run("report") as run:
        tracking.log_parameters(parameters)
        material = gather(run.info.experiment_id, parameters.study)
        text = page(material)
        tracking.log_files(texts={"report.html": text})
    partial = output.with_name(f".{output.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(output)
    console = Console()
    say(console, "Report", str(output))
    say(console, "Artifact", f"report.html of run {run.info.run_id}")
    return DONE


if __name__ == "__main__":
    main(ReportParameters, "report", report)
