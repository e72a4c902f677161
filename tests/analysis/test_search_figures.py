import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import Collection, LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from cifar_mlflow.analysis import search_figures
from cifar_mlflow.space import Choice, Domain, Range

DOMAINS: dict[str, Domain] = {
    "learning_rate": Range(0.0001, 0.1, True),
    "batch_size": Choice((32, 64, 128)),
    "optimizer": Choice(("sgd", "adam")),
}
TRIALS = pd.DataFrame(
    {
        "number": [1, 2, 3, 4, 5],
        "learning_rate": [0.0001, 0.01, 0.1, 0.001, 0.001],
        "batch_size": [32, 128, 64, 32, 64],
        "optimizer": ["sgd", "adam", "sgd", "adam", "adam"],
        "state": ["stopped", "complete", "failed", "complete", "stopped"],
        "epochs": [1, 9, 0, 9, 3],
        "val_accuracy": [0.2, 0.5, np.nan, 0.4, 0.3],
    }
)


def texts(figure: Figure) -> list[str]:
    """What a reader can read in the figure, once it is drawn."""
    figure.savefig(io.BytesIO(), format="png")
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]


def test_the_history_marks_where_trials_were_stopped_and_follows_the_best_complete_one() -> None:
    axis = search_figures.history(TRIALS).axes[0]
    lines = {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in axis.lines}
    assert lines == {
        "best so far": [[2, 0.5], [4, 0.5], [5, 0.5]],
        "complete": [[2, 0.5], [4, 0.4]],
        "stopped after 1 epoch": [[1, 0.2]],
        "stopped after 3 epochs": [[5, 0.3]],
        "failed": [[3, 0.0]],
    }


def heights(lines: Collection) -> list[list[float]]:
    assert isinstance(lines, LineCollection)
    return [np.asarray(line)[:, 1].round(3).tolist() for line in lines.get_segments()]


def test_parallel_coordinates_lead_through_the_parameters_of_each_trial_to_its_accuracy() -> None:
    axis = search_figures.parallel_coordinates(TRIALS, DOMAINS).axes[0]
    stopped, complete = axis.collections
    assert heights(stopped) == [[0, 0, 0, 0], [0.333, 0.5, 1, 0.333]]
    # The best one comes last, above the others.
    assert heights(complete) == [[0.333, 0, 1, 0.667], [0.667, 1, 1, 1]]


def test_slices_have_a_panel_for_each_parameter_with_its_own_scale() -> None:
    figure = search_figures.slices(TRIALS, DOMAINS)
    shown = {
        axis.get_xlabel(): [label.get_text() for label in axis.get_xticklabels()]
        for axis in figure.axes
        if axis.get_xlabel()
    }
    assert shown == {
        "learning rate": ["0.0001", "0.001", "0.01", "0.1"],
        "batch size": ["32", "64", "128"],
        "optimizer": ["sgd", "adam"],
    }


def test_figures_say_what_grey_means_only_if_a_trial_was_stopped() -> None:
    complete = TRIALS[TRIALS["state"] == "complete"]
    for draw in (search_figures.parallel_coordinates, search_figures.slices):
        assert any(text.startswith("grey: stopped") for text in texts(draw(TRIALS, DOMAINS)))
        assert not any(text.startswith("grey: stopped") for text in texts(draw(complete, DOMAINS)))


@pytest.mark.parametrize(
    "trials",
    [TRIALS[TRIALS["state"] == "stopped"], TRIALS.head(1), TRIALS[TRIALS["number"] == 2]],
    ids=["none complete", "one stopped", "one complete"],
)
def test_a_search_with_hardly_any_trials_is_drawn(trials: pd.DataFrame) -> None:
    assert "best so far" in texts(search_figures.history(trials))
    assert "0.0001 –" in texts(search_figures.parallel_coordinates(trials, DOMAINS))
    assert "learning rate" in texts(search_figures.slices(trials, DOMAINS))


def test_choices_of_several_types_and_ranges_of_whole_numbers_have_readable_ticks() -> None:
    domains: dict[str, Domain] = {
        "momentum": Choice(("auto", 0.5)),
        "lookahead": Range(0, 10, False),
        "label_smoothing": Range(0.0, 0.3, False),
    }
    table = TRIALS.assign(
        momentum=["auto", 0.5, 0.5, "auto", 0.5], lookahead=4, label_smoothing=0.1
    )
    shown = texts(search_figures.parallel_coordinates(table, domains))
    for label in ("auto", "0.5", "0", "10", "0.06", "0.24"):
        assert f"{label} –" in shown


def test_the_most_important_parameter_is_on_top() -> None:
    figure = search_figures.importance({"batch_size": 0.2, "learning_rate": 0.8}, "a title")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["batch size", "learning rate"]  # from the bottom
    assert {"0.20", "0.80", "a title"} <= set(texts(figure))
