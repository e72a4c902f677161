"""What a study shows while it runs, of trials that only the test's list holds."""

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
        self, run_id: str, trial: int, epochs: int, status: str = "RUNNING", **more: str
    ) -> None:
        key, name = TRIALS[trial].key, f"trial {trial}"
        ended = 0 if status == "RUNNING" else 1 + int(self.now)
        metrics = {"epoch": float(epochs)} if epochs else {}
        run = tracked(run_id, name, status, metrics, end_time=ended, trial_key=key, **more)
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
    monkeypatch.setattr(query, "read", lambda run_id: made.runs[run_id])
    monkeypatch.setattr("cifar_mlflow.study.progress.time.monotonic", lambda: made.now)
    return made


def watch() -> progress.Watch:
    return progress.Watch(Parent("", "0", "study"), TRIALS)


def left(watched: progress.Watch) -> str:
    watched.poll()
    return str(watched.progress.tasks[watched.tasks[""]].fields["note"])


def test_the_time_left_of_a_resumed_study_goes_by_the_epochs_that_it_trained(store: Store) -> None:
    store.write("before 0", 0, 20, "FINISHED")
    store.write("before 1", 1, 15, "KILLED")
    store.write("before 2", 2, 10, "KILLED")
    watched = watch()
    watched.poll(first=True)
    # It goes on: what it had is logged again, and is no work of this command.
    store.now = 1 * MINUTE
    store.write("again 1", 1, 14, resumed_from="before 1")
    assert left(watched) == ""
    store.now = 2 * MINUTE
    store.write("again 1", 1, 17, resumed_from="before 1")
    assert left(watched) == "about 33 min left"  # 2 epochs in 2 minutes, 33 to go
    # Another one was not seen before it had gone on and finished.
    store.write("again 2", 2, 20, "FINISHED", resumed_from="before 2")
    store.now = 4 * MINUTE
    assert left(watched) == "about 8 min left"  # 12 more; 23 to go, at 12 in 4 minutes


def test_the_time_left_of_a_study_that_begins(store: Store) -> None:
    watched = watch()
    watched.poll(first=True)
    store.now = 10 * MINUTE
    store.write("a", 0, 5)
    store.write("b", 1, 5)
    assert left(watched) == "about 70 min left"


def test_a_trial_that_begins_again_has_its_epochs_to_train_again(store: Store) -> None:
    store.write("before 0", 0, 15, "KILLED")
    watched = watch()
    watched.poll(first=True)
    store.now = 1 * MINUTE
    store.write("again 0", 0, 1)
    assert left(watched) == "about 79 min left"


def test_a_terminal_shows_what_a_look_found_without_a_clock_of_its_own(
    store: Store, screen: Screen
) -> None:
    shown = screen(100, is_terminal=True)
    watched = watch()
    with watched:
        store.write("a", 0, 7)
        watched.poll()
        assert "trial 0" in shown.getvalue()
        assert "7/20" in shown.getvalue()
        assert watched.progress.live._refresh_thread is None


def test_a_look_that_takes_long_is_followed_by_a_longer_pause() -> None:
    assert progress.poll_pause(0.001) == progress.POLL_SECONDS
    assert progress.poll_pause(0.1) == pytest.approx(10)
    assert progress.poll_pause(100) == progress.MAX_POLL_SECONDS
