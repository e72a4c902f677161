"""The entry point `report`; ReportParameters says what it does."""

from cifar_mlflow.command_line import main
from cifar_mlflow.errors import DONE
from cifar_mlflow.parameters import ReportParameters


def report(parameters: ReportParameters) -> int:
    from cifar_mlflow.report.write import write_report

    write_report(parameters)
    return DONE


if __name__ == "__main__":
    main(ReportParameters, "report", report)
