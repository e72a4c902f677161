"""The entry point `export`; ExportParameters says what it does."""

import sys

from cifar_mlflow.command_line import main
from cifar_mlflow.errors import DONE, FAILED
from cifar_mlflow.parameters import ExportParameters


def export(parameters: ExportParameters) -> int:
    from cifar_mlflow.export import export_model

    if failure := export_model(parameters):
        print(f"export: {failure}", file=sys.stderr)
        return FAILED
    return DONE


if __name__ == "__main__":
    main(ExportParameters, "export", export)
