"""Time that finished trials spent outside training: evaluation, figures, logging.

    python -m benchmarks.trial_overhead sqlite:////absolute/path/mlflow.db RUN_ID_OF_A_GRID

Reads a finished study. The first trial of each worker includes the import of TensorFlow.
"""

import statistics
import sys

import mlflow


def main() -> None:
    uri, parent = sys.argv[1:]
    client = mlflow.MlflowClient(uri)
    experiment = client.get_run(parent).info.experiment_id
    where = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'FINISHED'"
    outside = [
        (run.info.end_time - run.info.start_time) / 1000 - run.data.metrics["train_seconds"]
        for run in client.search_runs([experiment], where)
    ]
    print(
        f"seconds outside training: median {statistics.median(outside):.2f}, "
        f"{min(outside):.2f} to {max(outside):.2f}, n = {len(outside)}"
    )


if __name__ == "__main__":
    main()
