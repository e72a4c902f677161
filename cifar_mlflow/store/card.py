"""A model's card: what it is, how to use it, how good it is, and what its limits are.

All of it is generated from the tracking store. Its format is Hugging Face's: Markdown below a block of YAML
(https://huggingface.co/docs/hub/model-cards).
"""

import itertools
import json
import math
import shlex
import tempfile
from pathlib import Path

import mlflow
import yaml

from cifar_mlflow.analysis import metrics
from cifar_mlflow.analysis.statistics import INTERVAL
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import CIFAR10_DIGEST, IMAGE_SHAPE, URL
from cifar_mlflow.formatting import (
    UNKNOWN,
    as_text,
    counted,
    duration,
    literal_markdown,
    markdown_table,
    number,
    percent,
    printable,
    significant,
    truncated,
)
from cifar_mlflow.store import registry
from cifar_mlflow.store.facts import Facts, facts_of_model, facts_of_version
from cifar_mlflow.store.registry import PROMOTION
from cifar_mlflow.store.runs import BEST, TrackedRun

FILE = "README.md"  # where Hugging Face expects a card
DESCRIPTION_LENGTH = 5000  # characters that the registry's database keeps
CLASSES_LENGTH = 1000  # characters of the names that the description lists
CONFUSIONS_LISTED = 5
HUB_CIFAR10 = "uoft-cs/cifar10"  # Hugging Face's name of the data set
HUB_METRICS = {  # the name that Hugging Face has for a headline number
    "accuracy": "accuracy",
    "macro_f1": "f1",
    "loss": "loss",
    "calibration_error": "expected_calibration_error",
}
LABELS = {
    "macro_f1": "macro F1",
    "loss": "loss (cross-entropy, nats)",
    "calibration_error": "expected calibration error",
}
VERSIONS = {
    "Python": "python_version",
    "TensorFlow": "tensorflow_version",
    "Keras": "keras_version",
    "NumPy": "numpy_version",
    "MLflow": "mlflow_version",
}

ONNX_USAGE = """

Without TensorFlow, as ONNX, with `pixels` as above (the file is beside this card, or in its folder `exported`):

```python
import json
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(probabilities,) = session.run(["probabilities"], {"pixels": pixels})
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
```"""


def card_of_version(name: str, version: str) -> str:
    """The card of a registered version.

    Raises:
        UsageError: the store has no run that trained it, or not the predictions of that run.
        MlflowException: there is no such version.
    """
    return model_card(facts_of_version(name, version))


def card_of_model(model_id: str) -> str:
    """The card of a logged model, registered or not; raises as `card_of_version` does."""
    return model_card(facts_of_model(model_id))


def publish(name: str, version: str) -> None:
    """Write a version's card: as its model's artifact README.md, and a short form as its description.

    Both replace what was written before.

    Raises: as `card_of_version` does.
    """
    facts = facts_of_version(name, version)
    client = mlflow.MlflowClient()
    client.update_model_version(name, version, description(facts))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FILE)
        path.write_text(model_card(facts), encoding="utf-8")
        client.log_model_artifact(facts.model_id, str(path))


def license_of(digest: str) -> str:
    """The licence of a model trained on the data with this digest, by Hugging Face's name for it."""
    return "mit" if digest == CIFAR10_DIGEST else "unknown"


# The two forms --------------------------------------------------------------------------------


def model_card(facts: Facts) -> str:
    """The whole card: a block of YAML, and Markdown."""
    sections = [
        f"# {literal_markdown(facts.title)}",
        _summary(facts),
        _usage(facts),
        _data(facts),
        _training(facts),
        _quality(facts),
        _by_class(facts),
        _choice(facts),
        _limits(facts),
        _licence(facts),
    ]
    return f"---\n{_metadata(facts)}---\n\n" + "\n\n".join(sections) + "\n"


def description(facts: Facts) -> str:
    """A short form of the card, for readers who have nothing but the registry."""
    more = f"The model's artifact `{FILE}` is its whole card, with the data, the training and each class."
    sections = [
        _summary(facts, CLASSES_LENGTH),
        f"{more} Run {facts.run.run_id} trained it.",
        _usage(facts),
        _quality(facts),
        _choice(facts),
        _limits(facts),
    ]
    return truncated("\n\n".join(sections), DESCRIPTION_LENGTH)


# Sections -------------------------------------------------------------------------------------


def _metadata(facts: Facts) -> str:
    """The block of YAML that hubs read, without its fences.

    A data set that is not on Hugging Face has no name there. Its type is the one of any folder of images.
    """
    known = [HUB_CIFAR10] if facts.official else []
    data_set = {
        "type": known[0] if known else "imagefolder",
        "name": printable(facts.data_set),
        "split": "test",
    }
    measured = [
        {
            "type": kind,
            "name": _label(name),
            "value": round(float(facts.intervals["value"][name]), 4),
        }
        for name, kind in HUB_METRICS.items()
    ]
    task = {"type": "image-classification", "name": "Image classification"}
    results = [{"task": task, "dataset": data_set, "metrics": measured}]
    block = {
        "license": license_of(facts.digest),
        "library_name": "keras",
        "pipeline_tag": task["type"],
        "tags": ["mlflow", "tensorflow", *facts.formats],
        "datasets": known,
        "metrics": ["accuracy", "f1"],
        "model-index": [{"name": printable(facts.name), "results": results}],
    }
    filled = {key: value for key, value in block.items() if value}
    text: str = yaml.safe_dump(filled, sort_keys=False, allow_unicode=True, width=math.inf)
    return text


def _summary(facts: Facts, length: float = math.inf) -> str:
    """What the model is; at most so many characters of the names of its classes are listed."""
    names = [literal_markdown(name) for name in facts.classes]
    shown = sum(end <= length for end in itertools.accumulate(map(len, names)))
    listed = ", ".join(names[:shown])
    if shown < len(names):
        listed += f" and {len(names) - shown:,} more"
    height, width, _ = facts.image_shape
    value, interval = _headline(facts, "accuracy")
    return f"""Classifies colour images of {height} x {width} pixels into the {len(facts.classes)} classes of \
{literal_markdown(facts.data_set)}. Its test accuracy is {value} ({INTERVAL} {interval}).

**Classes**, in the order of the outputs: {listed}."""


def _usage(facts: Facts) -> str:
    height, width, channels = facts.image_shape
    return f"""## How to use it

In Python, with `mlflow`, `keras`, `tensorflow` and `pillow`, and with `MLFLOW_TRACKING_URI` set to the store that \
has the model:

```python
import mlflow
import numpy as np
from PIL import Image, ImageOps

photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
model = mlflow.pyfunc.load_model({json.dumps(facts.uri, ensure_ascii=False)})
(probabilities,) = model.predict(np.asarray(ImageOps.fit(photo, ({width}, {height})))[np.newaxis])
print(model.metadata.metadata["classes"][probabilities.argmax()], probabilities.max())
```

The model takes pixels, uint8 (N, {height}, {width}, {channels}), RGB 0..255, and gives probabilities, float32 \
(N, {len(facts.classes)}).

Over HTTP:

```bash
mlflow models serve -m {shlex.quote(facts.uri)} --env-manager local
```

Then POST to /invocations `{{"inputs": [...]}}` with N images as nested lists of whole numbers 0..255. The model's \
artifact `serving_input_example.json` is such a request.

Without MLflow: `keras.saving.load_model("model.keras")`. The file is beside this card, or in its folder \
`data`.{ONNX_USAGE if "onnx" in facts.formats else ""}"""


def _data(facts: Facts) -> str:
    validated = "to compare trials"
    if facts.twin:
        validated = "to choose the trial; then this model was trained on them too"
    tested = "for the numbers below"
    if facts.select_by == "test":
        tested = f"to choose the trial, and {tested}"
    validating = facts.twin or facts.run
    # A trial that counts its images and has none to validate with does not log that metric.
    none = 0 if "train_images" in validating.metrics else math.nan
    rows = [
        ["training", number(_metric(facts.run, "train_images"), 0), "to train"],
        ["validation", number(_metric(validating, "validation_images", none), 0), validated],
        ["test", number(facts.test_images, 0), tested],
    ]
    return f"""## Data

{literal_markdown(facts.data_set)}, SHA-256 {facts.digest}.

{markdown_table(["images", "number", "used"], rows, align="lrl")}"""


def _metric(run: TrackedRun, name: str, missing: float = math.nan) -> float:
    """A metric, which versions of this project before it did not log."""
    return run.metrics.get(name, missing)


def _training(facts: Facts) -> str:
    run, tags = facts.run, facts.run.tags
    defaults = {name: as_text(value) for name, value in TrialConfig().model_dump().items()}
    settings = {name: run.parameters[name] for name in defaults if name in run.parameters}
    given = [
        f"-P {name}={shlex.quote(value)} "
        for name, value in settings.items()
        if value != defaults[name]
    ]
    height = facts.image_shape[0]
    if height != IMAGE_SHAPE[0]:
        given.append(f"-P image_size={height} ")
    software = [f"{name} {tags[tag]}" for name, tag in VERSIONS.items() if tag in tags]
    threads, cores, instructions = (
        tags.get(tag, UNKNOWN) for tag in ("threads", "cores", "cpu_instructions")
    )
    rows = [
        ["trained by", f"run {run.run_id} ({literal_markdown(run.name)})"],
        ["weights", number(_metric(run, "parameters"), 0)],
        ["epochs, seed", f"{settings.get('epochs', UNKNOWN)}, {settings.get('seed', UNKNOWN)}"],
        ["time", duration(_metric(run, "train_seconds"))],
        ["compute", f"{significant(_metric(run, 'train_pflop'))} PFLOP (10^15 operations)"],
        ["machine", f"threads {threads}, cores {cores}, {instructions}"],
        ["software", ", ".join(software) or UNKNOWN],
        ["code", _code(run)],
    ]
    configured = [[name, literal_markdown(value)] for name, value in settings.items()]
    return f"""## Training

{markdown_table(["what", "how"], rows)}

The same training again, in a clone of that code{"" if facts.official else ", with its images as `data_dir`"}:

```bash
mlflow run . -e train {"".join(given)}--env-manager local
```

The whole configuration:

{markdown_table(["parameter", "value"], configured)}"""


def _code(run: TrackedRun) -> str:
    """The commit, and the repository if it has an address that others can reach."""
    commit = run.tags.get("mlflow.source.git.commit", UNKNOWN)
    repository = printable(run.tags.get("mlflow.source.git.repoURL", ""))
    public = repository.startswith(("https://", "http://", "ssh://", "git@"))
    return f"commit `{commit}`" + (f" of `{repository}`" if public else "")


def _quality(facts: Facts) -> str:
    rows = [[_label(name), *_headline(facts, name)] for name in facts.intervals.index]
    return f"""## Quality

On {counted(facts.test_images, "test image")}. The intervals are percentile bootstraps over the images.

{markdown_table(["metric", "value", INTERVAL], rows)}"""


def _label(headline: str) -> str:
    return LABELS.get(headline, headline.replace("_", " "))


def _headline(facts: Facts, name: str) -> tuple[str, str]:
    """A headline number, and its interval."""
    value, low, high = (float(facts.intervals[bound][name]) for bound in ("value", "low", "high"))
    return number(value, 4), f"{number(low, 4)} to {number(high, 4)}"


def _by_class(facts: Facts) -> str:
    rows = [
        [literal_markdown(str(name)), *(number(share) for share in shares), number(support, 0)]
        for name, *shares, support in facts.result.report.itertuples(name=None)
    ]
    headings = ["class", "precision", "recall", "F1", "images"]
    return f"### By class\n\n{markdown_table(headings, rows, align='lrrrr')}"


def _choice(facts: Facts) -> str:
    judged, reason = registry.validation(facts.tags), facts.tags.get(PROMOTION, "")
    verdict = "; ".join(filter(None, [judged if judged not in reason else "", reason]))
    return f"""## How it was chosen

{_chosen(facts)}

Champions are judged by validation accuracy. This model: {verdict}."""


def _chosen(facts: Facts) -> str:
    study, twin = facts.study, facts.twin
    if study is None:
        return "It was trained by itself, not chosen from others."
    trials, by = counted(facts.candidates, "finished trial"), f"{facts.select_by} accuracy"
    proposed = study.parameters.get("trials")  # of a search
    if "," in study.parameters.get("seed", "") or int(study.parameters.get("replicates", 1)) > 1:
        by += " (the mean over the seeds)"
    if not twin and facts.run.tags.get(BEST) != "true":
        return f"It is one of {trials} of {study.kind} run {study.run_id}, which chose another."
    chosen = f"run {twin.run_id}" if twin else "it"
    of = f"{trials} of its finalists, the best of {proposed} proposals" if proposed else trials
    text = f"{study.kind.capitalize()} run {study.run_id} chose {chosen} by {by}, from {of}."
    if twin:
        text += " This is the same trial, trained again on all training images."
    if facts.select_by == "test":
        text += " The test images helped to choose it, so its numbers on them are too good."
    return text


def _limits(facts: Facts) -> str:
    result, (height, width, _) = facts.result, facts.image_shape
    recall = result.report["recall"][result.report["support"] > 0]
    best, worst = (literal_markdown(str(name)) for name in (recall.idxmax(), recall.idxmin()))
    confused = metrics.most_confused(result.confusion).head(CONFUSIONS_LISTED)
    mistakes = [
        f"{literal_markdown(true)} for {literal_markdown(predicted)} ({percent(share, 0)})"
        for true, predicted, _, share in confused.itertuples(index=False, name=None)
    ]
    gap = round(facts.confidence - result.accuracy, 2)
    bias = "about right" if gap == 0 else "too high" if gap > 0 else "too low"
    return f"""## Limits

- Every image gets one of the {len(facts.classes)} classes, whatever it shows.
- It has seen no other images than those of {literal_markdown(facts.data_set)}. How good it is on photographs from \
elsewhere, cropped and reduced to {height} x {width} pixels, was not measured.
- Best recall: {best} ({number(recall.max(), 2)}); worst: {worst} ({number(recall.min(), 2)}). Most often it mistakes \
{", ".join(mistakes) or "nothing for anything else"}.
- Its probabilities are on average {bias}: the mean for the predicted class is {number(facts.confidence, 2)}, at an \
accuracy of {number(result.accuracy, 2)}.
- The intervals cover the choice of test images, not the choice of the training's seed.
- Pixels scaled to 0..1 are wrong: `mlflow.pyfunc` refuses them, but MLflow's server and Keras round them down \
without an error, and the model sees black."""


def _licence(facts: Facts) -> str:
    if facts.official:
        weights = "MIT, as the code that trained the model"
        images = (
            f"A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009, <{URL}>"
        )
    else:
        weights = (
            "not stated. Before you publish them, see what the rights in the images allow, and put it in "
            "`license` above"
        )
        images = f"{literal_markdown(facts.data_set)}, of unknown source"
    return f"""## Licence and citation

- Weights: {weights}.
- Images: {images}.
- Code: the cifar_mlflow authors, *cifar_mlflow*, {_code(facts.run)}, MIT licence."""
