"""The trials that a search proposed, and what became of them: as objects, as a table and as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from cifar_mlflow import console
from cifar_mlflow.analysis import search_figures
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.console import Lines
from cifar_mlflow.formatting import counted, markdown_table, number
from cifar_mlflow.parameters import SearchParameters
from cifar_mlflow.store import query, tracking
from cifar_mlflow.store.runs import Status, TrackedRun
from cifar_mlflow.study.importance import FEWEST, compared, importances
from cifar_mlflow.study.proposals import Outcome
from cifar_mlflow.study.summary import REASON_LENGTH, show

SHOWN = 10  # the best candidates, in the terminal and in the description


@dataclass(frozen=True)
class Candidate:
    """A trial that a search proposed, as far as it was trained."""

    number: int  # from 1, in the order of the proposals
    round: int  # from 1
    config: TrialConfig
    run: TrackedRun
    accuracies: Mapping[int, float]  # on the validation images, in 0..1, by epoch

    @classmethod
    def read(cls, number: int, round_: int, config: TrialConfig, run: TrackedRun) -> "Candidate":
        """With its history from the store, which takes one call."""
        history = query.metric_histories(run.run_id, ["val_accuracy"])
        accuracies = dict(zip(history["epoch"].tolist(), history["val_accuracy"].tolist()))
        return cls(number, round_, config, run, accuracies)

    @property
    def epochs(self) -> int:
        return len(self.accuracies)

    @property
    def state(self) -> str:
        """complete, failed for good, or stopped at a rung."""
        if self.run.status == Status.FINISHED:
            return "complete"
        return "failed" if self.run.given_up else "stopped"

    @property
    def accuracy(self) -> float | None:
        """What it is judged by when it is complete, of the weights that it keeps; else None."""
        complete = self.state == "complete"
        return self.run.metrics["kept_val_accuracy"] if complete else None

    def accuracy_at(self, rung: int) -> float | None:
        """What it is judged by at a rung; None if it failed before."""
        if rung not in self.accuracies:
            return None
        if self.config.keep == "last":
            return self.accuracies[rung]
        return max(value for epoch, value in self.accuracies.items() if epoch <= rung)

    @property
    def last_accuracy(self) -> float | None:
        """The accuracy that it was last judged by; None if it failed."""
        if self.state == "failed":
            return None
        return self.accuracy if self.state == "complete" else self.accuracy_at(self.epochs)

    @property
    def outcome(self) -> Outcome:
        failed = self.state == "failed"
        return Outcome(self.config, {} if failed else self.accuracies, self.accuracy)


def best_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that did not fail: complete ones first, then by epochs, accuracy and number."""
    judged = [
        (-candidate.epochs, -accuracy, candidate.number, candidate)
        for candidate in candidates
        if (accuracy := candidate.last_accuracy) is not None
    ]
    return [candidate for *_, candidate in sorted(judged, key=lambda each: each[:3])]


def tabulate(candidates: Sequence[Candidate], options: SearchParameters) -> pd.DataFrame:
    """One row for each candidate, in the order of the proposals.

    Columns: number, round, name, the fields that vary, state (complete, stopped or failed), epochs,
    val_accuracy (the one it was last judged by), end_reason, outdated (how its network or versions differ
    from those the search was resumed with), run_id.
    """
    columns = ["number", "round", "name", *options.space.varied]
    columns += ["state", "epochs", "val_accuracy", "end_reason", "outdated", "run_id"]
    # Those that a search stopped for have failed too, though it will try them again when it is resumed.
    states = ["failed" if each.run.status == Status.FAILED else each.state for each in candidates]
    rows = [
        {
            "number": candidate.number,
            "round": candidate.round,
            "name": candidate.config.name,
            **candidate.config.model_dump(include=set(options.space.varied)),
            "state": state,
            "epochs": candidate.epochs,
            "val_accuracy": candidate.last_accuracy,
            "end_reason": candidate.run.end_reason if state == "failed" else "",
            "outdated": candidate.run.outdated,
            "run_id": candidate.run.run_id,
        }
        for candidate, state in zip(candidates, states, strict=True)
    ]
    return pd.DataFrame(rows, columns=columns).astype({"val_accuracy": float})


def summarise_candidates(candidates: Sequence[Candidate], options: SearchParameters) -> str:
    """Log the candidates on the active run, and show the best of them; gives the same as Markdown."""
    table = tabulate(candidates, options)
    ranked = best_first(candidates)
    shares = importances([candidate.config for candidate in ranked], options.space)
    epochs = int(table["epochs"].sum())
    tracking.log_files(draw(table, shares, options), {"trials.csv": table})
    tracking.log_metrics({"search_epochs": epochs})

    best = [candidate.number for candidate in ranked[:SHOWN]]
    top = table.set_index("number").loc[best].reset_index()
    shown = ["number", *options.space.varied, "epochs", "val_accuracy"]
    headings = [name.replace("val_accuracy", "val acc.").replace("_", " ") for name in shown]
    cells = [
        [number(value) if name == "val_accuracy" else str(value) for name, value in row.items()]
        for row in top[shown].to_dict("records")
    ]
    if cells:
        show(headings, cells)
    lines = [*_account(table, epochs, options), ("Matters", _explain(shares, len(ranked)))]
    console.say_lines(lines)
    return "\n\n".join(
        ["### Search", markdown_table(headings, cells), console.lines_markdown(lines)]
    )


def draw(
    table: pd.DataFrame, shares: Mapping[str, float], options: SearchParameters
) -> dict[str, Figure]:
    """The figures of a search that have something to show, by file name.

    Args:
        table: of `tabulate`.
        shares: the importance of each parameter; empty if it is not known.
    """
    judged = int(table["val_accuracy"].notna().sum())
    if not judged:
        return {}
    domains = options.space.varied
    drawn = {
        "history.png": search_figures.history(table),
        "parallel_coordinates.png": search_figures.parallel_coordinates(table, domains),
        "slices.png": search_figures.slices(table, domains),
    }
    if shares:
        title = f"what sets the best {compared(judged)} of {judged} trials apart (PED-ANOVA)"
        drawn["importance.png"] = search_figures.importance(shares, title)
    return drawn


def _explain(shares: Mapping[str, float], judged: int) -> str:
    """How much each parameter matters, in a line."""
    if not shares:
        return f"not known: {counted(judged, 'trial')}, {FEWEST} are needed"
    parts = [f"{name} {number(share, 2)}" for name, share in shares.items()]
    return f"{', '.join(parts)} (PED-ANOVA, the best {compared(judged)} of {judged} trials)"


def _account(table: pd.DataFrame, epochs: int, options: SearchParameters) -> Lines:
    """What the search spent, and what failed."""
    states = table["state"].value_counts()
    counts = ", ".join(f"{states[state]} {state}" for state in states.index)
    complete = counted(round(epochs / options.epochs_each), "complete training")
    lines = [
        ("Searched", f"{counted(len(table), 'trial')} ({counts}); trials.csv has all"),
        (
            "Budget",
            f"{counted(epochs, 'epoch')}, as many as {complete} of a grid or a random search",
        ),
    ]
    failed = table[table["state"] == "failed"]
    if len(failed):
        reason = str(failed["end_reason"].iloc[0])[:REASON_LENGTH]
        lines.append(("Failed", f"{counted(len(failed), 'trial')}, ranked last; first: {reason}"))
    return lines
