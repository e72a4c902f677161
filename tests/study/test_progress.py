"""What a study shows while it runs, for runs that are in no real store."""

import io
import threading
from collections.abc import Mapping

import pytest

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.store import query
from cifar_mlflow.store.runs import Parent, TrackedRun
from cifar_mlflow.study import progress
from tests.conftest import Screen
from tests.stores import tracked

TRIALS = [TrialConfig(seed=seed) for seed in range(4)]
MINUTE = 60.0


class Store:
    """The runs of a study, and the time."""

    def __init__(self) -> None:
        self.runs: dict[str, TrackedRun] = {}
        self.now = 0.0

    def write(
        self,
        run_id: str,
        trial: int,
        epochs: int,
        status: str = "RUNNING",
        metrics: Mapping[str, float] = {},
        **tags: str,
    ) -> None:
        key, name = TRIALS[trial].key, f"trial {trial}"
        ended = 0 if status == "RUNNING" else 1 + int(self.now)
        logged = {**metrics, "epoch": float(epochs)} if epochs else {}
        planned = {"epochs": str(TRIALS[trial].epochs)}
        tags = {"kind": "trial", "trial_key": key, **tags}
        run = tracked(run_id, name, status, logged, ended, planned, **tags)
        self.runs[run_id] = run

    def children(self, parent: Parent, where: str) -> list[TrackedRun]:
        running = where == query.RUNNING
        since = 0 if running else int(where.rpartition(" ")[2])
        return [
            run
            for run in self.runs.values()
            if (run.status == "RUNNING") == running and run.end_time >= since
        ]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()
    monkeypatch.setattr(query, "children", made.children)
    monkeypatch.setattr(query, "find_run", made.runs.get)
    monkeypatch.setattr("cifar_mlflow.study.progress.time.monotonic", lambda: made.now)
    return made


def watch() -> progress.Watch:
    return progress.Watch(Parent("", "0", "study"), "trial", 4, 80)


def left(watched: progress.Watch) -> str:
    watched.poll()
    return str(watched.progress.tasks[watched.tasks[""]].fields["note"])


def test_the_time_left_of_a_resumed_study_counts_the_epochs_that_it_trained(store: Store) -> None:
    store.write("before 0", 0, 20, "FINISHED")
    store.write("before 1", 1, 15, "KILLED")
    store.write("before 2", 2, 10, "KILLED")
    watched = watch()
    watched.poll(first=True)
    # Resumed: the earlier epochs are logged again, but this command did not train them.
    store.now = 1 * MINUTE
    store.write("again 1", 1, 14, resumed_from="before 1")
    assert left(watched) == ""
    store.now = 2 * MINUTE
    store.write("again 1", 1, 17, resumed_from="before 1")
    assert left(watched) == "about 33 min left"  # 2 epochs in 2 minutes, 33 to go
    # Another one resumes and finishes between two polls.
    store.write("again 2", 2, 20, "FINISHED", resumed_from="before 2")
    store.now = 4 * MINUTE
    assert left(watched) == "about 8 min left"  # 12 more; 23 to go, at 12 in 4 minutes


def test_a_run_that_was_deleted_since_it_was_resumed_is_not_missed(store: Store) -> None:
    store.write("taken over", 0, 10, "KILLED", resumed_from="deleted")
    watched = watch()
    watched.poll(first=True)
    store.now = 10 * MINUTE
    store.write("again", 1, 10, resumed_from="deleted too")
    assert left(watched) == "about 60 min left"  # 10 epochs in 10 minutes, 60 to go


def test_the_time_left_of_a_study_that_begins(store: Store) -> None:
    watched = watch()
    watched.poll(first=True)
    store.now = 10 * MINUTE
    store.write("a", 0, 5)
    store.write("b", 1, 5)
    assert left(watched) == "about 70 min left"


def test_a_trial_that_starts_over_has_all_its_epochs_to_train(store: Store) -> None:
    store.write("before 0", 0, 15, "KILLED")
    watched = watch()
    watched.poll(first=True)
    store.now = 1 * MINUTE
    store.write("again 0", 0, 1)
    assert left(watched) == "about 79 min left"


# The display ----------------------------------------------------------------------------------


def test_a_terminal_shows_a_poll_without_a_refresh_thread(store: Store, screen: Screen) -> None:
    shown = screen(100, is_terminal=True)
    watched = watch()
    with watched:
        store.write("a", 0, 7)
        watched.poll()
        assert "trial 0" in shown.getvalue()
        assert "7/20" in shown.getvalue()
        assert watched.progress.live._refresh_thread is None


def bars(watched: progress.Watch) -> dict[str, tuple[float, float | None, str]]:
    """Epochs done, of how many, and the note of each bar, by name."""
    return {
        task.description: (task.completed, task.total, task.fields["note"])
        for task in watched.progress.tasks
    }


def test_every_trial_that_has_started_has_a_bar_with_its_accuracy(
    store: Store, screen: Screen
) -> None:
    screen(100, is_terminal=True)
    watched = watch()
    store.write("a", 0, 7, metrics={"val_accuracy": 0.6543})
    store.write("b", 1, 0)
    watched.poll()
    assert bars(watched) == {
        "trial 0": (7, 20, "val 0.654"),
        "trial 1": (0, 20, ""),
        "study": (7, 80, "about 1 s left"),
    }


def test_the_bar_of_a_trial_shows_how_it_ended(store: Store, screen: Screen) -> None:
    screen(100, is_terminal=True)
    watched = watch()
    reached = {"val_accuracy": 0.6, "test_accuracy": 0.5}
    store.write("a", 0, 20, "FINISHED", reached)
    store.write("b", 1, 3, "FAILED")
    watched.poll()
    assert bars(watched)["trial 0"] == (20, 20, "val 0.600 test 0.500")
    assert bars(watched)["trial 1"] == (3, 20, "failed")


def test_a_retry_continues_the_bar_of_its_trial(store: Store, screen: Screen) -> None:
    screen(100, is_terminal=True)
    watched = watch()
    store.write("a", 0, 3, "FAILED")
    watched.poll()
    store.now = 1
    store.write("a", 0, 3, "KILLED")
    store.write("b", 0, 5, resumed_from="a")
    watched.poll()
    assert bars(watched) == {"trial 0": (5, 20, ""), "study": (5, 80, "about 15 s left")}


@pytest.mark.parametrize(("trials", "shown"), [(30, True), (31, False)])
def test_of_more_than_30_trials_only_the_running_ones_have_a_bar(
    store: Store, screen: Screen, trials: int, shown: bool
) -> None:
    screen(100, is_terminal=True)
    watched = progress.Watch(Parent("", "0", "study"), "trial", trials, 20 * trials)
    store.write("a", 0, 20, "FINISHED")
    store.write("b", 1, 3)
    watched.poll()
    assert ("trial 0" in bars(watched)) == shown
    assert "trial 1" in bars(watched)


def lines(shown: io.StringIO) -> list[str]:
    return [line.strip() for line in shown.getvalue().splitlines()]


def test_a_file_gets_a_line_when_a_trial_ends(store: Store, screen: Screen) -> None:
    shown = screen()
    with watch() as watched:
        store.write("a", 0, 20, "FINISHED", {"val_accuracy": 0.6, "test_accuracy": 0.5})
        watched.poll()
        store.now = 1
        store.write("b", 1, 3, "FAILED")
        store.write("c", 2, 3, "KILLED")
        watched.poll()
        watched.poll()
    assert lines(shown) == ["1/4 trial 0: val 0.600 test 0.500", "2/4 trial 1: failed"]


def test_a_file_gets_a_line_a_minute_about_the_running_trials(store: Store, screen: Screen) -> None:
    shown = screen()
    watched = watch()
    store.write("a", 0, 4, metrics={"val_accuracy": 0.6})
    for store.now in (30, 61, 90, 122):
        watched.poll()
    assert lines(shown) == [
        "61 s; trial 0 4/20 val 0.600; about 19 min left",
        "2 min; trial 0 4/20 val 0.600; about 39 min left",
    ]


def test_a_store_that_is_away_is_polled_again(
    store: Store, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    polled, again = threading.Event(), threading.Event()

    def away(*_: object) -> None:
        (again if polled.is_set() else polled).set()
        raise query.StoreError("it does not answer")

    screen()
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.01)
    watched = watch()
    with watched, monkeypatch.context() as patch:
        patch.setattr(query, "children", away)
        assert again.wait(60)


def test_slow_polls_become_rarer() -> None:
    assert progress.poll_pause(0.001) == progress.POLL_SECONDS
    assert progress.poll_pause(0.1) == pytest.approx(10)
    assert progress.poll_pause(100) == progress.MAX_POLL_SECONDS


def test_only_the_trials_of_one_kind_are_shown(store: Store, screen: Screen) -> None:
    shown = screen()
    store.write("0", 0, 20, "FINISHED", kind="refit")
    store.write("1", 1, 20, kind="refit")
    watch().poll()
    assert shown.getvalue() == ""


def test_a_trial_that_was_paused_goes_on_in_its_bar(store: Store, screen: Screen) -> None:
    screen(100, is_terminal=True)
    watched = watch()
    store.write("a", 0, 3, "SCHEDULED", {"val_accuracy": 0.4})
    watched.poll()
    assert bars(watched)["trial 0"] == (3, 20, "paused val 0.400")
    store.write("a", 0, 4, metrics={"val_accuracy": 0.5})
    watched.poll()
    assert bars(watched)["trial 0"] == (4, 20, "val 0.500")


def test_a_file_gets_a_line_at_each_rung(store: Store, screen: Screen) -> None:
    shown = screen()
    watched = watch()
    for store.now, epochs, status in ((1, 3, "SCHEDULED"), (2, 4, "RUNNING"), (3, 9, "SCHEDULED")):
        store.write("a", 0, epochs, status)
        watched.poll()
    assert lines(shown) == ["1/4 trial 0: paused"] * 2
