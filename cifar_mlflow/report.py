"""The whole study as one HTML page that needs no network, made of what the tracking store holds.

Here is what stands in the page; report.html.jinja has its words and its looks.
"""

import base64
import math
import shlex
import struct
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from cifar_mlflow import evaluation, figures, findings, results, svg, tracking
from cifar_mlflow.config import TrialConfig, as_text
from cifar_mlflow.data import CLASSES
from cifar_mlflow.findings import Conclusion, Evidence
from cifar_mlflow.material import STUDIES, Classifier, Material, Study
from cifar_mlflow.plan import duration
from cifar_mlflow.published import (
    ARCHITECTURES,
    CONCLUSIONS,
    CONFUSION,
    GRID,
    PER_CLASS,
    published,
)
from cifar_mlflow.tracking import StoredRun

# The study's figures 2 to 4 show the architectures, 5 to 16 the grid, in the order of table 1.
SETTINGS = {"architectures": ("architecture",), "grid": ("activation", "batch_size", "optimizer")}
STUDY_FIGURES: dict[str, dict[tuple[Any, ...], int]] = {
    "architectures": {(name,): number for number, name in enumerate(ARCHITECTURES, start=2)},
    "grid": {setting: number for number, setting in enumerate(GRID, start=5)},
}
# An accuracy that is no farther than this from the published one counts as reproduced.
TOLERANCE = 0.02
# Of the lines in one picture, more could not be told apart.
MOST_LINES = len(figures.SERIES)
# Not part of a command that makes a run again: where the data lies is the reader's own affair.
PRIVATE = ("data_dir", "verbose", "dry_run")
VERSIONS = ("python", "tensorflow", "keras", "mlflow", "numpy")
NOTHING = "–"
MEASURES = {"val_accuracy": "validation accuracy", "test_accuracy": "test accuracy"}


class Missing(NamedTuple):
    """A part of the study that the page lacks, why, and the command that makes it."""

    part: str
    why: str
    command: str


class Picture(NamedTuple):
    label: str
    caption: str
    content: Markup
    wide: bool = False  # too small to read where the page is narrow, unless it scrolls


def page(material: Material) -> str:
    """The page, as the text of its file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "duration": duration}
    return environment.get_template("report.html.jinja").render(content(material))


def content(material: Material) -> dict[str, Any]:
    """What the template shows, by name."""
    sections = {
        "data": _data(material),
        "architectures": _architectures(material),
        "grid": _grid(material),
        "classes": _classes(material),
    }
    return {
        **sections,
        "title": "Image classification with convolutional neural networks, reproduced",
        "material": material,
        "official": all(study.official for study in material.studies),
        "few_seeds": _few_seeds(material),
        "missing": [part for section in sections.values() for part in section["missing"]],
        "facts": _facts(material),
        "conclusions": _conclusions(material),
        "effects": _effects(material),
        "epochs": _epochs(material),
        "made": _made(material),
        "commands": _commands(material),
        "class_names": CLASSES,
    }


# Numbers, pictures and commands as text ---------------------------------------------------------


def number(value: float, digits: int = 3) -> str:
    return NOTHING if math.isnan(value) else findings.fixed(value, digits)


def signed(value: float, digits: int = 3) -> str:
    return NOTHING if math.isnan(value) else findings.signed(value, digits)


def mean(record: Mapping[Any, Any], measure: str) -> str:
    """A configuration's mean, and its standard deviation where there are several seeds."""
    deviation = record[f"{measure}_sd"]
    spread = "" if math.isnan(deviation) else f" ± {number(deviation)}"
    return number(record[f"{measure}_mean"]) + spread


def vector(figure: Figure, identity: str, label: str, caption: str, seen: str) -> Picture:
    """A figure drawn here; ``seen`` tells what is to be seen in it."""
    return Picture(label, caption, Markup(svg.inline(figure, identity, seen)))


def photograph(png: bytes, identity: str, label: str, caption: str, seen: str) -> Picture:
    """A figure as a run has logged it."""
    width, height = struct.unpack(">II", png[16:24])
    image = Markup(
        '<img id="{}" src="data:image/png;base64,{}" width="{}" height="{}" alt="{}">'
    ).format(identity, base64.b64encode(png).decode(), width, height, seen)
    return Picture(label, caption, image, wide=True)


def command(entry: str, parameters: Mapping[str, str], experiment: str) -> str:
    """A command that makes a run, spelled for a shell."""
    words = ["mlflow", "run", ".", "-e", entry]
    if experiment != "Default":
        words += ["--experiment-name", experiment]
    for name, value in parameters.items():
        words += ["-P", f"{name}={value}"]
    return shlex.join([*words, "--env-manager", "local"])


def command_of(run: StoredRun, experiment: str) -> str:
    """The command that made a study; parameters at their defaults are left out."""
    given = {
        name: run.parameters[name]
        for name, field in STUDIES[run.kind].model_fields.items()
        if name in run.parameters
        and name not in PRIVATE
        and run.parameters[name] != as_text(field.default)
    }
    return command(run.kind, given, experiment)


def ranges(numbers: Iterable[int]) -> str:
    """``5, 7 to 9``."""
    spans: list[list[int]] = []
    for value in sorted(numbers):
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in spans)


# Sections ---------------------------------------------------------------------------------------


def _data(material: Material) -> dict[str, Any]:
    again = command("data", {}, material.experiment)
    lacking = [Missing("Figure 1, an example of each class", "", again)]
    data, png = material.data, material.class_examples
    if data is None or png is None:
        why = "no run of the entry point data is in this experiment"
        return {"figure": None, "missing": [lacking[0]._replace(why=why)]}
    digests = {study.run.tags.get(tracking.DATA_DIGEST) for study in material.studies}
    if digests - {data.tags.get(tracking.DATA_DIGEST)}:
        why = "the newest run of the entry point data shows other data than the studies used"
        return {"figure": None, "missing": [lacking[0]._replace(why=why)]}
    figure = photograph(
        png,
        "figure-1",
        "Figure 1",
        "The first image of each class in the training set, 32 × 32 pixels each.",
        f"Ten small photographs in two rows, one of each class: {', '.join(CLASSES)}.",
    )
    return {"figure": figure, "missing": []}


def _architectures(material: Material) -> dict[str, Any]:
    study = material.architectures
    if study is None:
        part = "Figures 2 to 4, the three architectures with their layers"
        why = "no finished study of the architectures is in this experiment"
        again = command("architectures", {}, material.experiment)
        return {"study": None, "missing": [Missing(part, why, again)]}
    curves, missing = _curves(study, material.experiment)
    networks = []
    for curve, picture in curves:
        network = material.networks.get(curve.config.architecture)
        layers = network.layers if network else None
        networks.append((picture, [] if layers is None else layers.to_dict("records")))
    return {"study": study, "networks": networks, "missing": missing, **_table(study)}


def _grid(material: Material) -> dict[str, Any]:
    study = material.grid
    if study is None:
        part = "Figures 5 to 17 and tables 1 to 4, the grid and its best model"
        why = "no finished grid is in this experiment"
        again = command("grid", {}, material.experiment)
        return {"study": None, "missing": [Missing(part, why, again)]}
    curves, missing = _curves(study, material.experiment)
    return {
        "study": study,
        "pictures": [picture for _, picture in curves],
        "levels": _levels(study),
        "missing": missing,
        **_table(study),
    }


class Curve(NamedTuple):
    """A configuration whose accuracy by epoch is a figure, the study's own where it has a number."""

    number: int | None
    config: TrialConfig
    trials: list[TrialConfig]  # alike but for their seed

    @property
    def label(self) -> str:
        return f"Figure {self.number}" if self.number else "Extra figure"


def _curves(study: Study, experiment: str) -> tuple[list[tuple[Curve, Picture]], list[Missing]]:
    """The learning curves, the study's figures first, in its order; and what is missing of them."""
    free = dict(STUDY_FIGURES[study.run.kind])
    curves = []
    for config, trials in study.configurations.items():
        setting = tuple(getattr(config, name) for name in SETTINGS[study.run.kind])
        curves.append(Curve(free.pop(setting, None), config, trials))
    missing = []
    if free:
        part = f"Figure{'s' if len(free) > 1 else ''} {ranges(free.values())}"
        why = "this study has no such configuration"
        missing.append(Missing(part, why, command(study.run.kind, {}, experiment)))
    pictures = []
    for curve in sorted(curves, key=lambda curve: curve.number or math.inf)[: results.MOST]:
        for trial in curve.trials:
            run = study.runs.get(trial.key)
            if run is None or run.status != "FINISHED":
                why = f"{run.status.lower()}, {run.end_reason}" if run else "not run"
                part = f"{curve.label}, trial {trial.name}"
                missing.append(Missing(part, why, command_of(study.run, experiment)))
        if picture := _curve(study, curve):
            pictures.append((curve, picture))
    if len(curves) > results.MOST:
        part = f"Curves of {len(curves) - results.MOST:,} more configurations"
        why = "too many for one page; the MLflow UI compares them"
        missing.append(Missing(part, why, "mlflow ui"))
    return pictures, missing


def _curve(study: Study, curve: Curve) -> Picture | None:
    """The accuracy by epoch of a configuration; None where no epoch was finished."""
    found = [study.histories.get(trial.key) for trial in curve.trials]
    histories = [history for history in found if history is not None and len(history)]
    if not histories:
        return None
    record = study.summary.loc[curve.config.name].to_dict()
    theirs = published(curve.config) if study.official else None
    ends = pd.concat([history.iloc[[0, -1]] for history in histories]).groupby("epoch").mean()
    first, last = ends.iloc[0], ends.iloc[-1]
    seen = (
        f"Line chart of accuracy over {int(ends.index[-1])} epochs. "
        f"Training: from {first.train_accuracy:.2f} to {last.train_accuracy:.2f}. "
        f"Validation: from {first.val_accuracy:.2f} to {last.val_accuracy:.2f}."
    )
    caption = f"{_describe(curve.config)}. Test accuracy {mean(record, 'test_accuracy')}"
    if theirs:
        seen += f" A level line marks the published test accuracy, {theirs.accuracy:.2f}."
        caption += f", published {theirs.accuracy:.2f} ({signed(record['difference'])})."
    else:
        caption += "; the study has none with this configuration."
    return vector(
        figures.accuracy_curves(histories, theirs.accuracy if theirs else None),
        f"figure-{curve.number or curve.config.key}",
        curve.label,
        caption,
        seen,
    )


def _describe(config: TrialConfig) -> str:
    """In words; by its name too where it has settings that words leave out."""
    words = f"{config.activation}, batch {config.batch_size}, {config.optimizer}"
    if config.architecture != "deep":
        words = f"{config.architecture} network, {words}"
    return f"{words} ({config.name})" if "=" in config.name else words


def _table(study: Study) -> dict[str, Any]:
    """Table 1, or the like of it for the architectures: measured beside published."""
    summary = study.summary
    factors = results.shown_factors(summary)
    rows = [
        {
            **record,
            "settings": [str(record[name]) for name in factors],
            "val": mean(record, "val_accuracy"),
            "test": mean(record, "test_accuracy"),
            "loss": mean(record, "test_loss"),
            "loss_difference": record["test_loss_mean"] - record["published_loss"],
        }
        for record in results.top(summary).to_dict("records")
    ]
    headings = [results.HEADINGS.get(name, name.replace("_", " ")) for name in factors]
    return {
        "factors": headings,
        "select_by": MEASURES[study.select_by],
        "rows": rows,
        "hidden": len(summary) - len(rows),
        "replicated": len(study.seeds) > 1,
        "reading": [
            f"{topic}: {text}"
            for topic, text in results.reading(summary, study.select_by)
            if topic == "Ranking"
        ],
    }


def _levels(study: Study) -> Picture | None:
    """Table 1 as a picture; None where the study has too many lines or too few points for one."""
    measured = results.accuracy_grid(study.summary, "test_accuracy_mean")
    theirs = results.accuracy_grid(study.summary, "published_accuracy")
    if len(measured) > MOST_LINES or len(measured.columns) < 2:
        return None
    ranges_ = "; ".join(
        f"{name}: {row.min():.2f} to {row.max():.2f}" for name, row in measured.iterrows()
    )
    return vector(
        figures.accuracy_levels(measured, theirs),
        "figure-a",
        "Figure A",
        "Table 1 as a picture: measured test accuracy (filled) and the published one (hollow).",
        f"Line chart of test accuracy by batch size, a line for each of the other settings. {ranges_}.",
    )


def _classes(material: Material) -> dict[str, Any]:
    best = material.best
    nothing: dict[str, Any] = {"best": None, "missing": []}
    if material.grid is None:
        return nothing
    again = command_of(material.grid.run, material.experiment)
    if best is None:
        why = "no trial of the study finished"
        return {**nothing, "missing": [Missing("Figure 17 and tables 2 to 4", why, again)]}
    missing = []
    if best.predictions is None:
        why = f"run {best.run.run_id} holds no predictions.parquet"
        missing.append(Missing("Tables 2 to 4", why, again))
    if best.misclassified is None:
        why = f"run {best.run.run_id} holds no misclassified.png"
        missing.append(Missing("Figure 17", why, again))
    return {
        "best": best,
        "second": _second(material),
        "figure": _misclassified(best),
        "missing": missing,
        **_tables_of_classes(best, material.grid.official),
    }


def _second(material: Material) -> str:
    """How the best model compares with the second, where the seeds are too few to tell."""
    tables = [leader.predictions for leader in material.leaders]
    if len(tables) < 2 or tables[0] is None or tables[1] is None or not _few_seeds(material):
        return ""
    comparison = evaluation.compare(tables[0], tables[1])
    return f"Against the second, {material.leaders[1].run.name}, on the same images: {comparison}."


def _misclassified(best: Classifier) -> Picture | None:
    if best.misclassified is None:
        return None
    seen = "Ten small photographs in two rows, each titled with its predicted and its true class."
    if best.predictions is not None:
        wrong = evaluation.misclassified(best.predictions)
        pairs = [
            f"{true} taken for {taken}" for true, taken in zip(wrong["true"], wrong["predicted"])
        ]
        seen += f" {', '.join(pairs).capitalize()}."
    caption = "Ten test images, drawn at random among those that the best model classifies wrongly."
    return photograph(best.misclassified, "figure-17", "Figure 17", caption, seen)


def _tables_of_classes(best: Classifier, official: bool) -> dict[str, Any]:
    """Tables 2, 3 and 4."""
    predictions, result, intervals = best.predictions, best.evaluation, best.intervals
    if predictions is None or result is None or intervals is None:
        return {"evaluation": None}
    confusion = result.confusion.to_numpy()
    theirs = np.array(CONFUSION)
    matrices = [("measured", _shaded(confusion))]
    if official:
        matrices.append(("published", _shaded(theirs)))
        matrices.append(("measured less published", _compared(confusion - theirs)))
    printed = PER_CLASS if official else [(math.nan,) * 3] * len(CLASSES)
    measures = ("precision", "recall", "f1")
    report = [
        (name, [(row[m], theirs[i], row[m] - theirs[i]) for i, m in enumerate(measures)])
        for (name, row), theirs in zip(result.report.iterrows(), printed)
    ]
    samples = evaluation.sample_predictions(predictions)
    return {
        "evaluation": result,
        "images": len(predictions),
        "matrices": matrices,
        "report": report,
        "interval": intervals.loc["accuracy"].to_numpy(),
        "confused": _confused(result.confusion, official),
        "samples": samples.to_dict("records"),
        "samples_right": int(samples["correct"].sum()),
    }


def _confused(confusion: pd.DataFrame, official: bool) -> list[dict[Hashable, Any]]:
    """The ten most frequent mistakes, each with its published count."""
    theirs = pd.DataFrame(CONFUSION, index=confusion.index, columns=confusion.columns)
    pairs = evaluation.most_confused(confusion).head(10)
    published_counts = [
        theirs.loc[true, predicted] if official else math.nan
        for true, predicted in zip(pairs["true"], pairs["predicted"])
    ]
    return pairs.assign(published=published_counts).to_dict("records")


def _shaded(counts: "np.ndarray[Any, np.dtype[np.int64]]") -> list[list[tuple[str, str, float]]]:
    """Rows of cells: text, whether right or wrong, and how dark. Mistakes are shaded on their own."""
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    darkest = shares[~np.eye(len(counts), dtype=bool)].max() or 1
    return [
        [
            (f"{counts[i, j]:,}", *(("right", share) if i == j else ("wrong", share / darkest)))
            for j, share in enumerate(row)
        ]
        for i, row in enumerate(shares)
    ]


def _compared(
    differences: "np.ndarray[Any, np.dtype[np.int64]]",
) -> list[list[tuple[str, str, float]]]:
    """Rows of cells: more than published is good on the diagonal, and bad beside it."""
    most = np.abs(differences).max() or 1
    return [
        [
            (signed(value, 0), "right" if (value > 0) == (i == j) else "wrong", abs(value) / most)
            for j, value in enumerate(row)
        ]
        for i, row in enumerate(differences)
    ]


# What follows from it ---------------------------------------------------------------------------


def _conclusions(material: Material) -> list[Conclusion]:
    grid, architectures, best = material.grid, material.architectures, material.best
    if any(not study.official for study in material.studies):
        other = Evidence(
            "These runs were made on other data than CIFAR-10: they say nothing of it."
        )
        return [findings.conclude(claim, other) for claim in CONCLUSIONS]
    predictions = {
        name: network.predictions
        for name, network in material.networks.items()
        if network.predictions is not None
    }
    table = architectures.table if architectures else None
    found = {0: findings.on_architectures(table, predictions)}
    if grid:
        found[1] = findings.on_epochs(_late_gains(grid))
        found[2] = findings.on_factors(grid.table, grid.factors)
    if best and best.evaluation and best.intervals is not None:
        found[3] = findings.on_classes(best.evaluation.confusion)
        found[4] = findings.on_level(*best.intervals.loc["accuracy"].to_numpy())
    nothing = Evidence("No finished grid with its best model's predictions to tell it from.")
    return [
        found.get(number) or findings.conclude(claim, nothing)
        for number, claim in enumerate(CONCLUSIONS)
    ]


def _late_gains(study: Study) -> pd.DataFrame:
    finished = [
        t for t in study.trials if t.key in study.runs and study.runs[t.key].status == "FINISHED"
    ]
    return findings.late_gains({trial.name: study.histories[trial.key] for trial in finished})


def _epochs(material: Material) -> list[dict[str, Any]]:
    if material.grid is None:
        return []
    gains = _late_gains(material.grid)
    return [{"name": name, **record} for name, record in gains.T.to_dict().items()]


def _effects(material: Material) -> dict[str, Any] | None:
    """Main effects and shares of variance, measured beside those of the published table 1."""
    study = material.grid
    if study is None or not study.factors:
        return None
    table, factors = study.table, study.factors
    effects = findings.main_effects(table, factors)
    if not effects:
        return None
    rows: list[dict[str, Any]] = []
    for effect in effects:
        theirs = findings.effect(
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
    measured = findings.variance_shares(table, factors)
    printed = findings.variance_shares(table, factors, "published_accuracy") or {}
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


def _few_seeds(material: Material) -> str:
    """How many seeds there are, where they are too few to tell chance."""
    seeds = min((len(study.seeds) for study in material.studies), default=findings.FEWEST)
    return {1: "one seed", 2: "two seeds"}.get(seeds, "")


def _facts(material: Material) -> list[tuple[str, str]]:
    """What a reader in a hurry wants to know, as terms and texts."""
    facts = []
    for study in material.studies:
        statuses = study.table["status"]
        facts.append(
            (
                {"grid": "Grid", "architectures": "Architectures"}[study.run.kind],
                (
                    f"{(statuses == 'FINISHED').sum()} of {len(statuses)} trials finished, "
                    f"{'seeds' if len(study.seeds) > 1 else 'one seed:'} {', '.join(map(str, study.seeds))}"
                ),
            )
        )
    grid = material.grid
    if grid is None:
        return facts
    compared = grid.summary.dropna(subset=["difference"])
    if len(compared):
        within = int((compared["difference"].abs() <= TOLERANCE).sum())
        farthest = compared.sort_values("difference", key=abs).iloc[-1]
        facts.append(
            (
                "Table 1",
                (
                    f"{within} of {len(compared)} test accuracies within {TOLERANCE} of the published one; "
                    f"mean difference {signed(float(compared['difference'].mean()))}, farthest "
                    f"{signed(farthest['difference'])} ({farthest.name})"
                ),
            )
        )
    if material.best:
        metrics = material.best.run.metrics
        facts.append(
            (
                "Best model",
                (
                    f"{material.best.run.name}, chosen by {MEASURES[grid.select_by]}: validation "
                    f"{number(metrics.get('kept_val_accuracy', math.nan))}, test {number(metrics.get('test_accuracy', math.nan))}, "
                    f"test loss {number(metrics.get('test_loss', math.nan))} nats"
                ),
            )
        )
    return facts


# How it was made --------------------------------------------------------------------------------


def _made(material: Material) -> list[tuple[str, str]]:
    """Terms and texts; where trials differ, every value."""
    runs = [run for study in material.studies for run in (study.run, *study.runs.values())]
    tags = {
        name: ", ".join(dict.fromkeys(run.tags[tag] for run in runs if tag in run.tags)) or NOTHING
        for name, tag in (
            ("Commit", "mlflow.source.git.commit"),
            *((name, f"{name}_version") for name in VERSIONS),
            ("Machine", "host"),
            ("cores", "cores"),
            ("threads", "threads"),
            ("Data", tracking.DATA_DIGEST),
        )
    }
    facts = [
        ("Commit", tags["Commit"]),
        ("Versions", ", ".join(f"{name} {tags[name]}" for name in VERSIONS)),
        (
            "Machine",
            f"{tags['Machine']}, cores {tags['cores']}, threads of a trial {tags['threads']}",
        ),
        ("Data", f"CIFAR-10's arrays, SHA-256 {tags['Data']}"),
    ]
    for study in material.studies:
        run = study.run
        wall = (run.ended - run.started).total_seconds() if run.ended else math.nan
        seconds = study.table["minutes"].sum() * 60
        facts.append(
            (
                f"Study {run.name}",
                (
                    f"run {run.run_id}, started {run.started:%d %B %Y %H:%M} UTC, took {duration(wall)} "
                    f"({duration(seconds)} of training in {len(study.runs)} trials); "
                    f"seeds {', '.join(map(str, study.seeds))}"
                ),
            )
        )
    return [*facts, ("Model", material.champion)] if material.grid else facts


def _commands(material: Material) -> list[str]:
    """What makes it again, in order."""
    commits = {
        run.tags.get("mlflow.source.git.commit") for run in (s.run for s in material.studies)
    }
    commits.discard(None)
    lines = [f"git checkout {commit}" for commit in commits] if len(commits) == 1 else []
    lines.append("pip install -r requirements.txt")
    if material.data:
        lines.append(command("data", {}, material.experiment))
    lines += [command_of(study.run, material.experiment) for study in material.studies]
    return [*lines, command("report", {}, material.experiment)]
