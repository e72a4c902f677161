"""Time that finished trials spent outside training: evaluation, figures, logging.

    python -m benchmarks.trial_overhead sqlite:////absolute/path/mlflow.db RUN_ID_OF_A_GRID

Reads a finished study. The first trial of each worker includes the import of TensorFlow.
"""

import statistics

from benchmarks import machine
from benchmarks.stores import finished_trials, reading


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("uri", help="of the tracking store")
    parser.add_argument("run_id", help="of a grid")
    options = parser.parse_args()
    with reading(parser, options.uri):
        outside = [
            (run.end_time - run.start_time) / 1000 - run.metrics["train_seconds"]
            for run in finished_trials(options.run_id)
        ]
    print(
        f"seconds outside training: median {statistics.median(outside):.2f}, "
        f"{min(outside):.2f} to {max(outside):.2f}, n = {len(outside)}"
    )


if __name__ == "__main__":
    main()
