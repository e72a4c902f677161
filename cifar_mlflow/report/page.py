"""The report as one HTML page, which needs no other file and no network.

sections.py has its figures and tables, beyond.py those of its last chapter; this module its summary, conclusions and provenance;
page.html.jinja its text and page.css its style.
"""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from cifar_mlflow import templates
from cifar_mlflow.analysis import effects, figures, statistics
from cifar_mlflow.formatting import UNKNOWN, duration, number, percent, signed, significant
from cifar_mlflow.paper import CONCLUSIONS
from cifar_mlflow.report import beyond, conclusions, sections
from cifar_mlflow.report.collect import ReportData, Study
from cifar_mlflow.report.conclusions import Conclusion, Evidence
from cifar_mlflow.report.elements import command, command_of, data_options, vector_figure
from cifar_mlflow.store.runs import DATA_DIGEST, DATA_NAME, Status, TrackedRun
from cifar_mlflow.study import results

VERSIONS = ("python", "tensorflow", "keras", "mlflow", "numpy")
COMMIT = "mlflow.source.git.commit"


def render_page(report: ReportData) -> str:
    """The page as HTML."""
    environment = templates.environment(Path(__file__).parent)
    environment.globals["INTERVAL"] = statistics.INTERVAL
    filters = (number, significant, signed, percent)
    environment.filters |= {each.__name__: each for each in filters}
    return environment.get_template("page.html.jinja").render(content(report))


def content(report: ReportData) -> dict[str, Any]:
    """What the template shows, by name."""
    own = report.own_data
    parts = {
        "data": sections.data(report),
        "architectures": sections.architectures(report),
        "grid": sections.grid(report),
        "classes": sections.classes(report),
    }
    return {
        **parts,
        "title": _title(own),
        "own": own.tags[DATA_NAME] if own else None,  # the name of the user's own data
        "beyond_title": "Accuracy against compute" if own else "Beyond the paper",
        "report": report,
        "official": report.official,
        "few_seeds": _few_seeds(report),
        "missing": [] if own else [part for each in parts.values() for part in each["missing"]],
        "facts": _facts(report),
        "conclusions": [] if own else _conclusions(report),
        "effects": None if own else _effects(report),
        "epochs": None if own else _epochs(report),
        "beyond": beyond.beyond(report),
        "provenance": _provenance(report),
        "commands": _commands(report),
    }


def _title(own: TrackedRun | None) -> str:
    if own:
        return f"{own.tags[DATA_NAME]}: image classification with convolutional neural networks"
    return "Image classification with convolutional neural networks, reproduced"


def _conclusions(report: ReportData) -> list[Conclusion]:
    """The paper's conclusions, each checked against the runs on CIFAR-10."""
    grid, architectures = (
        study if study and study.official else None for study in (report.grid, report.architectures)
    )
    predictions = {
        name: network.predictions
        for name, network in report.networks.items()
        if network.predictions is not None
    }
    checked = {0: conclusions.on_architectures(None, {})}
    if architectures:
        table, factors = architectures.table, architectures.factors
        checked[0] = conclusions.on_architectures(table, predictions, factors)
    if grid:
        checked[1] = conclusions.on_epochs(_late_gains(grid))
        checked[2] = conclusions.on_factors(grid.table, grid.factors)
    best = report.best if grid else None
    if grid and best and best.evaluation and best.intervals is not None:
        checked[3] = conclusions.on_classes(best.evaluation.confusion)
        chosen = grid.summary[grid.summary["best"]].to_dict("records")[0]
        mean, low, high = (chosen[f"test_accuracy_{name}"] for name in ("mean", "low", "high"))
        level = statistics.Estimate(mean, low, high, chosen["n"])
        checked[4] = conclusions.on_level(level, best.intervals.T["accuracy"].tolist())
    nothing = Evidence("This takes a finished grid on CIFAR-10 and its best model.")
    return [
        checked.get(index) or conclusions.conclude(claim, nothing)
        for index, claim in enumerate(CONCLUSIONS)
    ]


def _late_gains(study: Study) -> pd.DataFrame:
    finished = [
        t
        for t in study.trials
        if t.key in study.runs and study.runs[t.key].status == Status.FINISHED
    ]
    return effects.late_gains({trial.name: study.histories[trial.key] for trial in finished})


def _epochs(report: ReportData) -> list[dict[str, Any]]:
    """What the last epochs gained each configuration in table 1, the mean over its seeds."""
    study = report.grid
    if study is None:
        return []
    configurations = {trial.name: trial.configuration.name for trial in study.trials}
    gains = _late_gains(study).groupby(lambda name: configurations[name], sort=False)
    means = gains.mean().head(results.MOST)
    return [{"name": name, **record} for name, record in means.T.to_dict().items()]


def _effects(report: ReportData) -> dict[str, Any] | None:
    """Main effects and shares of variance, measured and in the published table 1."""
    study = report.grid
    if study is None or not study.factors:
        return None
    table, factors = study.table, study.factors
    largest = effects.main_effects(table, factors)
    if not largest:
        return None
    rows: list[dict[str, Any]] = []
    for effect in largest:
        paper = effects.effect(
            table, factors, effect.factor, effect.better, effect.worse, "published_accuracy"
        )
        rows.append(
            {
                "name": f"{effect.factor.replace('_', ' ')}: {effect.better} less {effect.worse}",
                "value": effect.difference.value,
                "low": effect.difference.low,
                "high": effect.difference.high,
                "n": effect.difference.n,
                "published": paper.difference.value,
            }
        )
    shown = "; ".join(f"{row['name']} {signed(row['value'])}" for row in rows)
    caption = (
        "The main effects on test accuracy: the mean difference between a factor's best and worst "
        f"level, the other factors being equal, with its {statistics.INTERVAL}."
    )
    measured = effects.variance_shares(table, factors)
    paper_shares = effects.variance_shares(table, factors, "published_accuracy") or {}
    return {
        "rows": rows,
        "replicated": len(study.seeds) > 1,
        "figure": vector_figure(
            figures.intervals(pd.DataFrame(rows), "difference in test accuracy"),
            "figure-b",
            "Figure B",
            caption,
            f"Dots with lines for their intervals. {shown}.",
        ),
        "shares": [
            (
                " × ".join(name.replace("_", " ") for name in names) or "the rest",
                share,
                paper_shares.get(names, math.nan),
            )
            for names, share in (measured or {}).items()
        ],
    }


def _few_seeds(report: ReportData) -> dict[int, str]:
    """The studies with too few seeds for an interval, by their number of seeds."""
    few: dict[int, list[str]] = {}
    for study in report.studies:
        if len(study.seeds) < statistics.MIN_VALUES:
            few.setdefault(len(study.seeds), []).append(study.run.kind)
    return {seeds: " and ".join(kinds) for seeds, kinds in few.items()}


def _facts(report: ReportData) -> list[tuple[str, str]]:
    """The main results, as terms and texts."""
    facts = []
    for study in report.studies:
        statuses = study.table["status"]
        finished = f"{(statuses == 'FINISHED').sum()} of {len(statuses)} trials finished"
        facts.append((study.run.kind.capitalize(), f"{finished}, {_seeds(study)}"))
    grid, best = report.grid, report.best
    if grid is None or best is None:
        return facts
    compared = grid.summary.dropna(subset=["difference"]).sort_values("difference", key=abs)
    if len(compared):
        # In binary fractions 0.52 is 0.02 + 2e-17 away from 0.50.
        within = int((compared["difference"].abs().round(9) <= conclusions.TOLERANCE).sum())
        farthest = compared.iloc[-1]
        text = (
            f"{within} of {len(compared)} test accuracies within {conclusions.TOLERANCE} of the published one; "
            f"mean difference {signed(float(compared['difference'].mean()))}, farthest "
            f"{signed(farthest['difference'])} ({farthest.name})"
        )
        facts.append(("Table 1", text))
    val, test, loss = (
        number(best.run.metrics.get(name, math.nan))
        for name in ("kept_val_accuracy", "test_accuracy", "test_loss")
    )
    text = (
        f"{best.run.name}, chosen by {grid.select_by} accuracy: validation {val}, test {test}, "
        f"test loss {loss} nats"
    )
    return [*facts, ("Best model", text)]


def _seeds(study: Study) -> str:
    """``one seed (0)`` or ``3 seeds (0, 1, 2)``."""
    many = f"{len(study.seeds)} seeds" if len(study.seeds) > 1 else "one seed"
    return f"{many} ({', '.join(map(str, study.seeds))})"


# Provenance -------------------------------------------------------------------------------------


def _provenance(report: ReportData) -> list[tuple[str, str]]:
    """How the runs were made, as terms and texts; if trials differ, all values."""
    runs = [run for study in report.studies for run in (study.run, *study.runs.values())]
    names = (COMMIT, DATA_DIGEST, "host", "cores", "threads")
    tags = {
        name: ", ".join(dict.fromkeys(run.tags[name] for run in runs if name in run.tags))
        or UNKNOWN
        for name in (*names, *(f"{package}_version" for package in VERSIONS))
    }
    facts = [
        ("Commit", tags[COMMIT]),
        ("Versions", ", ".join(f"{name} {tags[f'{name}_version']}" for name in VERSIONS)),
        ("Machine", f"{tags['host']}, cores {tags['cores']}, threads per trial {tags['threads']}"),
        ("Data", f"SHA-256 of the arrays {tags[DATA_DIGEST]}"),
    ]
    for study in report.studies:
        run = study.run
        took = "still running"
        if run.ended:
            took = f"took {duration((run.ended - run.started).total_seconds())}"
        training = duration(study.table["minutes"].sum() * 60)
        text = (
            f"run {run.run_id}, started {run.started:%d %B %Y %H:%M} UTC, {took} "
            f"({training} of training in {len(study.runs)} trials); {_seeds(study)}"
        )
        facts.append((f"Study {run.name}", text))
    return [*facts, ("Model", report.champion)] if report.grid else facts


def _commands(report: ReportData) -> list[str]:
    """The commands that repeat it all, in order."""
    commits = {study.run.tags[COMMIT] for study in report.studies if COMMIT in study.run.tags}
    lines = [f"git checkout {commit}" for commit in commits] if len(commits) == 1 else []
    lines.append("pip install -r requirements.txt")
    if report.data:
        lines.append(command("data", data_options(report.own_data), report.experiment))
    lines += [command_of(study.run, report.experiment) for study in report.studies]
    return [*lines, command("report", {}, report.experiment)]
