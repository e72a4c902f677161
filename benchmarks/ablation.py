"""What each choice of a recipe is worth: its trainings beside those that differ in one choice alone.

    for change in optimizer=muon schedule=constant label_smoothing=0 augment=none resolution=32; do
      mlflow run . -e grid -P recipe=fast -P $change -P seed=0,1,2,3,4 -P workers=2 -P threads=1 \\
        --env-manager local
    done
    python -m benchmarks.ablation sqlite:///mlflow.db fast docs/images/ablation.png

Reads the finished trials on CIFAR-10 of the experiment that `mlflow run` would use. Differences in
validation accuracy are between trainings of one seed. What test-time augmentation is worth needs no
other training: the network is validated without it after its last epoch.
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmarks import machine
from benchmarks.stores import reading
from cifar_mlflow import recipes
from cifar_mlflow.analysis.statistics import INTERVAL, Estimate, estimate
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import CIFAR10_DIGEST
from cifar_mlflow.errors import MISUSED, UsageError
from cifar_mlflow.formatting import as_text
from cifar_mlflow.store import query
from cifar_mlflow.store.runs import DATA_DIGEST

WITHOUT_TTA = "tta=none"
# Of the figure's axis: where it turns logarithmic, and its ticks.
LINEAR = 0.01
TICKS = (-0.3, -0.1, -0.03, -0.01, -0.005, 0, 0.005, 0.01, 0.03, 0.1, 0.3)


def accuracies(recipe: TrialConfig) -> pd.DataFrame:
    """Validation accuracies of the recipe (the column "") and of its changes, a row for each seed."""
    found: list[tuple[int, str, float]] = []
    usual = recipe.model_dump(exclude={"seed"})
    for run in query.newest_trials():
        if run.tags.get(DATA_DIGEST) != CIFAR10_DIGEST or "kept_val_accuracy" not in run.metrics:
            continue
        seed, values = run.config.seed, run.config.model_dump(exclude={"seed"})
        changed = [
            f"{name}={as_text(values[name])}" for name in usual if values[name] != usual[name]
        ]
        if len(changed) <= 1:
            found.append((seed, "".join(changed), run.metrics["kept_val_accuracy"]))
        if not changed and recipe.tta != "none":
            found.append((seed, WITHOUT_TTA, run.metrics["val_accuracy"]))
    table = pd.DataFrame(found, columns=["seed", "change", "accuracy"])
    # A repeated training would count twice; the newest comes first.
    newest = table.drop_duplicates(["seed", "change"])
    return newest.pivot(index="seed", columns="change", values="accuracy")


def differences(table: pd.DataFrame) -> dict[str, Estimate]:
    """How much more accurate than the recipe each change is, the worst first.

    Changes that have no seed in common with the recipe are left out.
    """
    pairs = {name: (table[name] - table[""]).dropna() for name in table.columns if name}
    changes = {name: estimate(values) for name, values in pairs.items() if len(values)}
    return dict(sorted(changes.items(), key=lambda change: change[1].value))


def draw(changes: dict[str, Estimate], title: str) -> Figure:
    figure = Figure(figsize=(7, 1.3 + 0.35 * len(changes)), layout="constrained")
    axis = figure.subplots()
    for place, difference in enumerate(changes.values()):
        axis.hlines(place, difference.low, difference.high, color="#1f5fa8", linewidth=2)
        axis.plot(difference.value, place, "o", color="#1f5fa8")
    labels = [f"{name} (n = {difference.n})" for name, difference in changes.items()]
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    # One change may cost a hundred times as much as another.
    axis.set_xscale("symlog", linthresh=LINEAR)
    lowest, highest = axis.get_xlim()
    shown = [tick for tick in TICKS if lowest <= tick <= highest]
    axis.set_xticks(shown, [f"{tick:+g}".replace("-", "−") if tick else "0" for tick in shown])
    axis.set_xticks([], minor=True)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.grid(alpha=0.3, axis="x")
    figure.supxlabel(
        f"change of validation accuracy (logarithmic beyond ±{LINEAR}), mean and its {INTERVAL}",
        fontsize=10,
    )
    axis.set_title(title, loc="left", fontsize=10)
    return figure


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("uri", help="of the tracking store")
    parser.add_argument("recipe")
    parser.add_argument("target", help="the figure to write")
    options = parser.parse_args()
    name = options.recipe
    try:
        recipe = TrialConfig.model_validate(recipes.read(name, several=False))
    except UsageError as error:
        parser.exit(MISUSED, f"{parser.prog}: {error}\n")
    with reading(parser, options.uri):
        table = accuracies(recipe)
        if "" not in table:
            raise UsageError(f"no finished training of the recipe {name}")
        changes = differences(table)
        figure = draw(changes, f"The recipe {name} with one choice changed")
        figure.savefig(options.target, dpi=120)
    print(f"{name:<24} {table[''].mean():.4f}  n = {table[''].count()}")
    for change, difference in changes.items():
        print(f"{change:<24} {difference}  n = {difference.n}")


if __name__ == "__main__":
    main()
