"""The same budget of epochs, spent by a grid, a random search, and TPE with halving.

    python -m benchmarks.search_budget FOLDER --searches 3

Each search trains for 36 epochs of the small network, which are nine complete trainings. Its best
configuration by validation accuracy is then trained once more, with a new seed, and tested. The grid is
what nine trainings allow: three learning rates, evenly spaced on a logarithmic axis, with three
optimizers, and defaults for the rest. Repeated grids differ only in the seed of their trainings.

FOLDER keeps the tracking store, search_budget.json and search_budget.png. Run the command again to go on
after an interruption: finished searches are skipped, and an interrupted one resumes.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from mlflow.entities import Run

from benchmarks import machine

SPACE = {
    "architecture": "small",
    "epochs": "4",
    "learning_rate": "log:0.0001..0.1",
    "optimizer": "sgd,adam,rmsprop",
    "batch_size": "32,64,128",
    "augment": "none,flip",
    "finalists": "1",
    "replicates": "1",
}
# With its few values a grid is a search that ends when the space is exhausted, so all three are measured
# by one command.
GRID = {"learning_rate": "0.0003,0.003,0.03", "batch_size": "32", "augment": "none"}
NINE = {"trials": "9", "round_size": "9", "sampler": "random"}
WAYS = {
    "grid": NINE | GRID,
    "random": NINE,
    # Four rounds of four trials take 8 epochs each, and one of a single trial takes 4.
    "TPE, halved": {"trials": "17", "rungs": "1,2,4"},
}
SEEDS_APART = 10  # a search and its finalist have different seeds, and so have two searches
MEASURES = {
    "validation_accuracy": "validation, the best trial",
    "test_accuracy": "test, its configuration with a new seed",
}
Record = dict[str, Any]


def search(folder: Path, way: str, seed: int) -> Record:
    """Run a search, unless it is finished in the store; gives what it came to."""
    parameters = SPACE | {"seed": str(seed), "sampler_seed": str(seed)} | WAYS[way]
    experiment = f"{way}, seed {seed}"
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    run = find(client, experiment)
    if run is None:
        print(f"\n{experiment}", flush=True)
        given = [f"--{name}={value}" for name, value in parameters.items()]
        place = {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_EXPERIMENT_NAME": experiment,
            "PYTHONPATH": str(machine.PROJECT),
        }
        command = [sys.executable, "-m", "entry_points.search", *given]
        subprocess.run(command, cwd=folder, env=os.environ | place, check=True)
        run = find(client, experiment)
        assert run, "the search has finished"
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/trials.csv")
    trials = pd.read_csv(io.StringIO(text))
    complete = trials[trials["state"] == "complete"]
    finalist = client.get_run(run.data.tags["best_run_id"])
    return {
        "way": way,
        "seed": seed,
        "epochs": int(trials["epochs"].sum()),
        "trials": len(trials),
        "complete": len(complete),
        "validation_accuracy": float(complete["val_accuracy"].max()),
        "test_accuracy": finalist.data.metrics["test_accuracy"],
        "finalist": finalist.info.run_name,
        "commit": run.data.tags.get("mlflow.source.git.commit", "")[:7],
        "cores": int(run.data.tags["cores"]),
    }


def find(client: mlflow.MlflowClient, experiment: str) -> Run | None:
    """The finished search of an experiment."""
    if (found := client.get_experiment_by_name(experiment)) is None:
        return None
    where = "tags.kind = 'search' and attributes.status = 'FINISHED'"
    return next(iter(client.search_runs([found.experiment_id], where)), None)


def summarise(records: list[Record]) -> pd.DataFrame:
    """A row for each way: n, and of each number its mean and standard deviation (NaN if n = 1)."""
    grouped = pd.DataFrame(records).groupby("way", sort=False)
    columns = {"n": ("seed", "count"), "epochs": ("epochs", "mean"), "trials": ("trials", "mean")}
    for name in MEASURES:
        columns |= {f"{name}_mean": (name, "mean"), f"{name}_sd": (name, "std")}
    return pd.DataFrame(grouped.agg(**columns))


def draw(records: list[Record]) -> Figure:
    """A dot for each search, by way, and a line at their mean."""
    table = pd.DataFrame(records)
    ways = list(dict.fromkeys(table["way"]))
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(1, 2, sharey=True), MEASURES.items()):
        for place, way in enumerate(ways):
            values = table[table["way"] == way][name].to_numpy()
            spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else 0.0
            axis.plot(place + spread, values, "o", color="#4477aa")
            axis.hlines(values.mean(), place - 0.25, place + 0.25, color="#cc3311")
        counts = table["way"].value_counts()
        axis.set_xticks(range(len(ways)), [f"{way}\nn = {counts[way]}" for way in ways])
        axis.set(title=title, xlim=(-0.5, len(ways) - 0.5))
        axis.grid(alpha=0.3, axis="y")
    figure.supylabel("accuracy", fontsize="medium")
    return figure


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--searches", type=machine.positive, default=3)
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    for number in range(options.searches):
        for way in WAYS:
            records.append(search(folder, way, SEEDS_APART * number))
            summary = summarise(records)
            content = {"searches": records, "summary": summary.reset_index().to_dict("records")}
            (folder / "search_budget.json").write_text(json.dumps(content, indent=1) + "\n")
            draw(records).savefig(folder / "search_budget.png", dpi=120)
    print(summary.round(4).to_string())


if __name__ == "__main__":
    main()
