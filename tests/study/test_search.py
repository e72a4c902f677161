"""A search with a fake training: what it proposes, which trials go on, and what an interruption costs."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlflow
import pytest

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.errors import Diverged, Paused
from cifar_mlflow.parameters import SearchParameters
from cifar_mlflow.store import claims, query, resume, tracking
from cifar_mlflow.store.runs import PAUSED_AT, Parent, Status, TrackedRun
from cifar_mlflow.study import runner, search, trial
from cifar_mlflow.study.candidates import Candidate, best_first, summarise_candidates, tabulate
from cifar_mlflow.study.engines import Engine, Jobs
from cifar_mlflow.study.trial import TrialOptions
from cifar_mlflow.training.checkpoint import Checkpoint, Epoch
from tests.conftest import Screen

pytestmark = pytest.mark.usefixtures("store")
HALVED = {"trials": "6", "rungs": "1,2,4", "optimizer": "sgd", "finalists": "2"}
EPOCHS = (4 + 2 + 1 * 2) + (2 + 1 + 1 * 2)  # of its two rounds, of four trials and of two
SMALL = {"trials": "3", "rungs": "1,2", "epochs": "2"}  # 2 + 1 and 1 + 1 epochs


def accuracy(config: TrialConfig, epoch: int) -> float:
    """About as good as the learning rate is small, better with every epoch, and different for each."""
    assert isinstance(config.learning_rate, float)
    return 1 - 5 * config.learning_rate - 0.1 / epoch - config.batch_size * 1e-6


def one_by_one(jobs: Jobs) -> list[Any]:
    return [run(*arguments, **named) for run, arguments, named in jobs]


@dataclass
class Lab:
    """Runs searches; each call of `run` is a command that resumes the one before."""

    data: DataSet
    run_jobs: Callable[[Jobs], list[Any]] = one_by_one
    trained: list[tuple[str, int]] = field(default_factory=list)  # trial keys and epochs, of all
    order: list[str] = field(
        default_factory=list
    )  # trial keys, as they were begun, of all commands
    interrupt_at: int = 0  # the point of the next command at which Ctrl-C is pressed; 0 never
    fails: Callable[[TrialConfig, int], BaseException | None] = lambda config, epoch: None
    previous: list[claims.UnfinishedRun] = field(default_factory=list)
    points: int = 0
    stopped: str | None = None

    def run(self, **given: str) -> list[Candidate]:
        options = SearchParameters.model_validate(HALVED | given)
        self.points = 0
        with tracking.tracked_run("search") as run:
            parent = run.as_parent()
            engine = Engine(1, 1, self.run_jobs)
            if self.previous:
                search.take_over(self.previous, self.data, options, engine, parent)
            self.previous = [claims.UnfinishedRun.of(run)]
            found = search.Search(options, self.data, engine, parent, self.train)
            self.stopped = found.run()
            return found.candidates

    def train(
        self,
        config: TrialConfig,
        data: DataSet,
        options: TrialOptions,
        attempts: Sequence[TrackedRun],
        say: object,
    ) -> None:
        self.point()
        if config.key not in self.order:
            self.order.append(config.key)
        tracking.log_parameters(config)
        start = resume.resume_from(attempts, lambda checkpoint: None)
        history = list(start.history) if start else []
        last = options.pause_after or config.epochs
        for epoch in range(len(history) + 1, last + 1):
            if failure := self.fails(config, epoch):
                raise failure
            reached = accuracy(config, epoch)
            history.append(Epoch(epoch, 1.0, reached, 1.0, reached, 0.1, 1.0))
            self.trained.append((config.key, epoch))
            resume.save_checkpoint(Checkpoint(tuple(history), [], []))
            self.point()
        if options.pause_after:
            raise Paused
        tracking.log_metrics({"kept_val_accuracy": history[-1].val_accuracy or 0.0})

    def point(self) -> None:
        self.points += 1
        if self.points == self.interrupt_at:
            raise KeyboardInterrupt

    @property
    def parent(self) -> Parent:
        return query.read(self.previous[0].run_id).as_parent()

    @property
    def runs(self) -> list[TrackedRun]:
        return query.children(self.parent)


@pytest.fixture
def lab(small_cifar10: DataSet, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(runner, "find_outdated", lambda *_: {})  # which needs TensorFlow
    return Lab(small_cifar10)


def results(candidates: Sequence[Candidate]) -> list[tuple[str, str, dict[int, float]]]:
    return [(each.config.key, each.state, dict(each.accuracies)) for each in candidates]


# Halving --------------------------------------------------------------------------------------


def test_the_best_of_a_round_go_on_from_rung_to_rung(lab: Lab) -> None:
    candidates = lab.run()
    assert [each.round for each in candidates] == [1, 1, 1, 1, 2, 2]
    assert [each.number for each in candidates] == [1, 2, 3, 4, 5, 6]
    for round_, epochs in ((1, [4, 2, 1, 1]), (2, [4, 1])):
        own = [each for each in candidates if each.round == round_]
        own.sort(key=lambda each: -accuracy(each.config, 1))
        assert [each.epochs for each in own] == epochs
    assert [each.state for each in candidates].count("complete") == 2


def test_a_trial_goes_on_in_its_own_run_and_no_epoch_is_trained_twice(lab: Lab) -> None:
    candidates = lab.run()
    assert len(lab.runs) == 6
    assert len(lab.trained) == len(set(lab.trained)) == EPOCHS
    points = mlflow.MlflowClient().get_metric_history(
        best_first(candidates)[0].run.run_id, "val_accuracy"
    )
    assert [point.step for point in points] == [1, 2, 3, 4]


def test_a_trial_that_was_stopped_stays_paused_and_its_checkpoint_is_deleted(lab: Lab) -> None:
    lab.run()
    runs = lab.runs
    paused = [run for run in runs if run.status == Status.PAUSED]
    assert sorted(run.tags[PAUSED_AT] for run in paused) == ["1", "1", "1", "2"]
    assert mlflow.get_run(paused[0].run_id).info.status == "SCHEDULED"
    assert not any(run.checkpoint for run in runs)
    assert all(run.tags[tracking.DESCRIPTION].startswith("Paused after epoch") for run in paused)
    went_on = [run for run in runs if run.status != Status.PAUSED]
    assert went_on
    assert not any({PAUSED_AT, tracking.DESCRIPTION} & set(run.tags) for run in went_on)


def test_the_order_in_which_workers_finish_changes_nothing(
    lab: Lab, small_cifar10: DataSet
) -> None:
    backwards = Lab(small_cifar10, lambda jobs: one_by_one(jobs[::-1]))
    assert results(lab.run()) == results(backwards.run())
    assert lab.order != backwards.order


def test_without_rungs_every_trial_is_trained_to_its_end(lab: Lab) -> None:
    candidates = lab.run(rungs="none", epochs="2", trials="3")
    assert [(each.state, each.epochs) for each in candidates] == [("complete", 2)] * 3
    assert candidates[0].accuracy == accuracy(candidates[0].config, 2)


def test_with_keep_best_a_trial_is_judged_by_its_best_epoch_so_far(lab: Lab) -> None:
    run = query.read(lab.run(rungs="none", epochs="1", trials="1")[0].run.run_id)
    for keep, judged in (("last", 0.3), ("best", 0.5)):
        config = TrialConfig.model_validate({"keep": keep, "epochs": 3})
        each = Candidate(1, 1, config, run, {1: 0.5, 2: 0.3, 3: 0.9})
        assert each.accuracy_at(2) == judged
        assert each.accuracy_at(4) is None


# Interruptions --------------------------------------------------------------------------------


def test_a_search_interrupted_at_every_point_ends_as_if_it_was_left_alone(
    lab: Lab, small_cifar10: DataSet
) -> None:
    whole = Lab(small_cifar10)
    expected = results(whole.run(**SMALL))
    candidates: list[Candidate] = []
    commands = 0
    while not candidates and commands < 30:
        # Before a trial's first new epoch, then after it, in turn.
        lab.interrupt_at = 1 + commands % 2
        commands += 1
        try:
            candidates = lab.run(**SMALL)
        except KeyboardInterrupt:
            pass
    assert 5 < commands < 30
    assert results(candidates) == expected
    assert lab.order == whole.order
    assert Counter(lab.trained) == Counter(whole.trained)


def test_an_epoch_that_was_saved_but_not_logged_is_not_trained_again(
    lab: Lab, small_cifar10: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    whole = Lab(small_cifar10)
    expected = results(whole.run(**SMALL))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tracking, "log_epochs", killed)
        lab.run(**SMALL)
    assert lab.trained == [(lab.order[0], 1)]
    assert results(lab.run(**SMALL)) == expected
    assert Counter(lab.trained) == Counter(whole.trained)


def test_a_resumed_search_says_what_it_found(lab: Lab, screen: Screen) -> None:
    lab.interrupt_at = 4
    with pytest.raises(KeyboardInterrupt):
        lab.run()
    first, lab.interrupt_at, shown = lab.previous[0].run_id, 0, screen()
    lab.run()
    lines = shown.getvalue().splitlines()
    assert lines[0] == f"Resuming  search {first}: 2 trials, 2 epochs trained"
    assert (
        lines[1] == f"Round     1 of 2, 4 trials to epoch 1; {EPOCHS - 2} of {EPOCHS} epochs left"
    )
    assert lines[2].startswith(
        "Round     1 of 2, 2 trials to epoch 2; best validation accuracy 0.8"
    )
    assert lines[2].endswith(f"; {EPOCHS - 4} of {EPOCHS} epochs left")


# Failures -------------------------------------------------------------------------------------


def diverges(config: TrialConfig, epoch: int) -> BaseException | None:
    assert isinstance(config.learning_rate, float)
    return Diverged("the loss is nan") if config.learning_rate > 0.005 and epoch == 2 else None


def test_a_trial_that_diverges_counts_as_the_worst_and_is_not_tried_again(lab: Lab) -> None:
    lab.fails = diverges
    candidates = lab.run(rungs="none", epochs="2", trials="4")
    failed = [each for each in candidates if each.state == "failed"]
    assert failed
    assert not any(each.last_accuracy or each.outcome.accuracies for each in failed)
    assert len(lab.runs) == len(candidates) == 4
    assert all(run.given_up == (run.status == Status.FAILED) for run in lab.runs)
    assert lab.stopped is None
    tried = list(lab.trained)
    assert results(lab.run(rungs="none", epochs="2", trials="4")) == results(candidates)
    assert lab.trained == tried


def test_a_failed_trial_is_retried_in_its_round(lab: Lab) -> None:
    failures = iter([OSError("a passing fault")])
    lab.fails = lambda config, epoch: next(failures, None) if epoch == 2 else None
    candidates = lab.run(**SMALL)
    assert sorted(each.state for each in candidates) == ["complete", "complete", "stopped"]
    assert len(lab.trained) == len(set(lab.trained)) == 5


def test_a_search_stops_after_so_many_same_failures_and_goes_on_when_run_again(lab: Lab) -> None:
    lab.fails = lambda config, epoch: OSError("the disk is full")
    candidates = lab.run(**SMALL, max_same_failures="2")
    assert lab.stopped == "OSError: the disk is full"
    table = tabulate(candidates, SearchParameters.model_validate(HALVED | SMALL))
    assert table["state"].tolist() == ["failed", "failed"]
    assert set(table["end_reason"]) == {lab.stopped}
    lab.fails = lambda config, epoch: None
    assert [each.round for each in lab.run(**SMALL)] == [1, 1, 2]
    assert lab.stopped is None


def test_a_trial_whose_worker_was_killed_once_it_had_finished_stays_finished(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_clean_up", lambda run: query.read(run.run_id))
    candidates = lab.run(**SMALL)
    done = [each for each in candidates if each.state == "complete"]
    assert [run.run_id for run in lab.runs if run.status == Status.FINISHED] == [
        each.run.run_id for each in done
    ]
    assert len(done) == 2
    assert not any(run.checkpoint for run in lab.runs)


# The end --------------------------------------------------------------------------------------


def test_the_best_complete_trials_get_new_seeds_and_names_that_show_them(lab: Lab) -> None:
    candidates = lab.run(seed="7")
    options = SearchParameters.model_validate(HALVED | {"seed": "7", "replicates": "2"})
    trials = search.replicates(candidates, options)
    first, second = (each.config for each in best_first(candidates)[:2])
    assert [trial.seed for trial in trials] == [8, 9, 8, 9]
    keys = [trial.configuration.key for trial in trials[::2]]
    assert keys == [first.configuration.key, second.configuration.key]
    assert "-seed=8-" in trials[0].name
    assert not {trial.key for trial in trials} & {each.config.key for each in candidates}


def test_a_space_without_further_trials_ends_the_search(lab: Lab) -> None:
    space = {"learning_rate": "0.1,0.01", "batch_size": "32", "optimizer": "sgd"}
    candidates = lab.run(**space, rungs="none", epochs="1", trials="20")
    assert {each.config.learning_rate for each in candidates} == {0.1, 0.01}
    assert len(candidates) == 2


def test_the_study_shows_its_candidates_and_what_they_cost(lab: Lab, screen: Screen) -> None:
    candidates = lab.run()
    options, shown = SearchParameters.model_validate(HALVED), screen()
    table = tabulate(candidates, options)
    assert table["number"].tolist() == [1, 2, 3, 4, 5, 6]
    assert {"batch_size", "learning_rate"} < set(table) and "optimizer" not in table
    with tracking.tracked_run("search") as run:
        text = summarise_candidates(candidates, options)
    assert query.read(run.run_id).metrics["search_epochs"] == EPOCHS
    assert len(query.read_table(run.run_id, "trials.csv")) == 6
    budget = f"{EPOCHS} epochs, as many as 3 complete trainings of a grid or a random search"
    assert f"**Budget** {budget}" in text
    assert f"Budget    {budget}" in shown.getvalue()
    assert "6 trials (4 stopped, 2 complete)" in shown.getvalue()
