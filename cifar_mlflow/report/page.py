"""The whole study as one HTML page that needs no network, made of what the tracking store holds.

sections.py makes its figures and tables; here are its summary, its conclusions and how it was
made; page.html.jinja has its words and its looks.
"""

import math
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from cifar_mlflow.analysis import effects, figures, statistics
from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.formatting import NOTHING, duration, number, percent, signed
from cifar_mlflow.paper import CONCLUSIONS
from cifar_mlflow.report import conclusions, sections
from cifar_mlflow.report.collect import Material, Study
from cifar_mlflow.report.conclusions import Conclusion, Evidence
from cifar_mlflow.report.elements import command, command_of, vector
from cifar_mlflow.store.runs import DATA_DIGEST
from cifar_mlflow.study import results

VERSIONS = ("python", "tensorflow", "keras", "mlflow", "numpy")
COMMIT = "mlflow.source.git.commit"


def page(material: Material) -> str:
    """The page, as the text of its file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "percent": percent}
    return environment.get_template("page.html.jinja").render(content(material))


def content(material: Material) -> dict[str, Any]:
    """What the template shows, by name."""
    parts = {
        "data": sections.data(material),
        "architectures": sections.architectures(material),
        "grid": sections.grid(material),
        "classes": sections.classes(material),
    }
    return {
        **parts,
        "title": "Image classification with convolutional neural networks, reproduced",
        "material": material,
        "official": all(study.official for study in material.studies),
        "few_seeds": _few_seeds(material),
        "missing": [part for section in parts.values() for part in section["missing"]],
        "facts": _facts(material),
        "conclusions": _conclusions(material),
        "effects": _effects(material),
        "epochs": _epochs(material),
        "made": _made(material),
        "commands": _commands(material),
        "class_names": CLASSES,
    }


def _conclusions(material: Material) -> list[Conclusion]:
    """The study's conclusions, each held against those runs that were made on CIFAR-10."""
    grid, architectures = (
        study if study and study.official else None
        for study in (material.grid, material.architectures)
    )
    predictions = {
        name: network.predictions
        for name, network in material.networks.items()
        if network.predictions is not None
    }
    found = {0: conclusions.on_architectures(None, {})}
    if architectures:
        table, factors = architectures.table, architectures.factors
        found[0] = conclusions.on_architectures(table, predictions, factors)
    if grid:
        found[1] = conclusions.on_epochs(_late_gains(grid))
        found[2] = conclusions.on_factors(grid.table, grid.factors)
    best = material.best if grid else None
    if grid and best and best.evaluation and best.intervals is not None:
        found[3] = conclusions.on_classes(best.evaluation.confusion)
        chosen = grid.summary[grid.summary["best"]].to_dict("records")[0]
        mean, low, high = (chosen[f"test_accuracy_{name}"] for name in ("mean", "low", "high"))
        level = statistics.Estimate(mean, low, high, chosen["n"])
        found[4] = conclusions.on_level(level, best.intervals.T["accuracy"].tolist())
    nothing = Evidence("No finished grid on CIFAR-10 with its best model to tell it from.")
    return [
        found.get(number) or conclusions.conclude(claim, nothing)
        for number, claim in enumerate(CONCLUSIONS)
    ]


def _late_gains(study: Study) -> pd.DataFrame:
    finished = [
        t for t in study.trials if t.key in study.runs and study.runs[t.key].status == "FINISHED"
    ]
    return effects.late_gains({trial.name: study.histories[trial.key] for trial in finished})


def _epochs(material: Material) -> list[dict[str, Any]]:
    """What the last epochs brought each configuration, the mean over its seeds."""
    study = material.grid
    if study is None:
        return []
    configurations = {trial.name: trial.configuration.name for trial in study.trials}
    gains = _late_gains(study).groupby(lambda name: configurations[name], sort=False)
    means = gains.mean().head(results.MOST)
    return [{"name": name, **record} for name, record in means.T.to_dict().items()]


def _effects(material: Material) -> dict[str, Any] | None:
    """Main effects and shares of variance, measured beside those of the published table 1."""
    study = material.grid
    if study is None or not study.factors:
        return None
    table, factors = study.table, study.factors
    largest = effects.main_effects(table, factors)
    if not largest:
        return None
    rows: list[dict[str, Any]] = []
    for effect in largest:
        theirs = effects.effect(
            table, factors, effect.factor, effect.better, effect.worse, "published_accuracy"
        )
        rows.append(
            {
                "name": f"{effect.factor.replace('_', ' ')}: {effect.better} less {effect.worse}",
                "value": effect.difference.value,
                "low": effect.difference.low,
                "high": effect.difference.high,
                "n": effect.difference.n,
                "published": theirs.difference.value,
            }
        )
    shown = "; ".join(f"{row['name']} {signed(row['value'])}" for row in rows)
    caption = (
        "The main effects on test accuracy: the mean difference between a factor's best and worst "
        "level, the other factors being equal, with its 95 % interval."
    )
    measured = effects.variance_shares(table, factors)
    printed = effects.variance_shares(table, factors, "published_accuracy") or {}
    return {
        "rows": rows,
        "replicated": len(study.seeds) > 1,
        "picture": vector(
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
                printed.get(names, math.nan),
            )
            for names, share in (measured or {}).items()
        ],
    }


def _few_seeds(material: Material) -> dict[int, str]:
    """The studies with too few seeds to tell chance, by how many they have."""
    few: dict[int, list[str]] = {}
    for study in material.studies:
        if len(study.seeds) < statistics.FEWEST:
            few.setdefault(len(study.seeds), []).append(study.run.kind)
    return {seeds: " and ".join(kinds) for seeds, kinds in few.items()}


def _facts(material: Material) -> list[tuple[str, str]]:
    """What a reader in a hurry wants to know, as terms and texts."""
    facts = []
    for study in material.studies:
        statuses = study.table["status"]
        finished = f"{(statuses == 'FINISHED').sum()} of {len(statuses)} trials finished"
        facts.append((study.run.kind.capitalize(), f"{finished}, {_seeds(study)}"))
    grid, best = material.grid, material.best
    if grid is None or best is None:
        return facts
    compared = grid.summary.dropna(subset=["difference"]).sort_values("difference", key=abs)
    if len(compared):
        # Binary fractions: 0.52 is farther than 0.02 from 0.50 by 2e-17.
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


# How it was made --------------------------------------------------------------------------------


def _made(material: Material) -> list[tuple[str, str]]:
    """Terms and texts; where trials differ, every value."""
    runs = [run for study in material.studies for run in (study.run, *study.runs.values())]
    names = (COMMIT, DATA_DIGEST, "host", "cores", "threads")
    tags = {
        name: ", ".join(dict.fromkeys(run.tags[name] for run in runs if name in run.tags))
        or NOTHING
        for name in (*names, *(f"{package}_version" for package in VERSIONS))
    }
    facts = [
        ("Commit", tags[COMMIT]),
        ("Versions", ", ".join(f"{name} {tags[f'{name}_version']}" for name in VERSIONS)),
        ("Machine", f"{tags['host']}, cores {tags['cores']}, threads of a trial {tags['threads']}"),
        ("Data", f"SHA-256 of its arrays {tags[DATA_DIGEST]}"),
    ]
    for study in material.studies:
        run = study.run
        took = "has not ended"
        if run.ended:
            took = f"took {duration((run.ended - run.started).total_seconds())}"
        training = duration(study.table["minutes"].sum() * 60)
        text = (
            f"run {run.run_id}, started {run.started:%d %B %Y %H:%M} UTC, {took} "
            f"({training} of training in {len(study.runs)} trials); {_seeds(study)}"
        )
        facts.append((f"Study {run.name}", text))
    return [*facts, ("Model", material.champion)] if material.grid else facts


def _commands(material: Material) -> list[str]:
    """What makes it again, in order."""
    commits = {study.run.tags[COMMIT] for study in material.studies if COMMIT in study.run.tags}
    lines = [f"git checkout {commit}" for commit in commits] if len(commits) == 1 else []
    lines.append("pip install -r requirements.txt")
    if material.data:
        lines.append(command("data", {}, material.experiment))
    lines += [command_of(study.run, material.experiment) for study in material.studies]
    return [*lines, command("report", {}, material.experiment)]
