"""The figure of benchmarks.training_speed, drawn from its file of results.

python -m benchmarks.speed_figure speed.json docs/images/speed.png
"""

import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import machine

COLOURS = {
    "trainer": "#1f5fa8",
    "convolutions alone": "#6b6b6b",
}  # others are what it is compared with
OTHERS = "#c2571a"


def draw(results: dict[str, Any]) -> Figure:
    """A panel for each batch size: medians as dots, from least to most as lines."""
    batches = results["batches"]
    rows = max(len(batch["variants"]) for batch in batches)
    figure = Figure(figsize=(8, 0.8 + len(batches) * (0.5 + 0.27 * rows)), layout="constrained")
    axes = figure.subplots(len(batches), 1, sharex=True, squeeze=False)[:, 0]
    for axis, batch in zip(axes, batches):
        _panel(axis, batch["variants"])
        axis.set_title(f"batch {batch['batch_size']}", loc="left", fontsize=10)
    rounds = results["rounds"]
    figure.supxlabel(
        f"training images per second: median of {rounds}, least to most (2 x 1: processes x threads)",
        fontsize=10,
    )
    return figure


def _panel(axis: Axes, variants: list[dict[str, Any]]) -> None:
    for place, variant in enumerate(variants):
        rates = [result["images_per_second"] for result in variant["rounds"]]
        colour = COLOURS.get(variant["name"], OTHERS)
        axis.hlines(place, min(rates), max(rates), color=colour, linewidth=2)
        axis.plot(statistics.median(rates), place, "o", color=colour)
    axis.set_yticks(range(len(variants)), [variant["label"] for variant in variants], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.grid(axis="x", alpha=0.4)


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("results", type=Path, help="the file that the benchmark wrote")
    parser.add_argument("figure", type=machine.new_file, help="the file to write")
    options = parser.parse_args()
    try:
        results = json.loads(options.results.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"{options.results}: {error}")
    draw(results).savefig(options.figure, dpi=120)


if __name__ == "__main__":
    main()
