"""Search for the best configuration: rounds of proposals, each halved rung by rung; then its finalists.

A search is a study whose trials follow from each other's results. Its only memory is the tracking store:
whoever resumes one goes through its rounds again, and finds there what is trained already.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version

from cifar_mlflow import console
from cifar_mlflow.config import TrialConfig
from cifar_mlflow.console import say
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.formatting import counted, number
from cifar_mlflow.parameters import SearchParameters
from cifar_mlflow.store import claims, query, resume, tracking
from cifar_mlflow.store.runs import CANDIDATE, REFIT, Parent, Status
from cifar_mlflow.study import engines, halving, runner
from cifar_mlflow.study.candidates import Candidate, best_first, summarise_candidates
from cifar_mlflow.study.plan import outline_search
from cifar_mlflow.study.progress import Watch
from cifar_mlflow.study.proposals import Proposals, check_sampler
from cifar_mlflow.study.summary import Summary, summarise_study
from cifar_mlflow.study.trial import Train, TrialOptions, train_candidate


def run_search(options: SearchParameters) -> bool:
    """Run a search under one parent run, train its finalists, and register the best model.

    Returns:
        Whether it came to its end: all trials of the finalists finished, and the refit.

    Raises:
        UsageError: as `runner.run_study` does, or the sampler needs a package that is missing.
        Superseded: another command has resumed this search.
    """
    check_sampler(options.sampler)
    data = runner.load_data(list(options.space.examples()), options)
    key = claims.search_key({**options.plan, "optuna": version("optuna")}, data)
    with runner.claimed_run(key, options) as (parent, previous):
        with runner.tracked_engine(options.most_at_once, data, options, parent) as engine:
            say("Search", outline_search(options, engine.workers, engine.threads))
            if previous:
                take_over(previous, data, options, engine, parent)
            search = Search(options, data, engine, parent)
            with runner.shown(search.watch):
                stopped = search.run()
            runner.say_stopped(stopped, options)
            trials = [] if stopped else replicates(search.candidates, options)
            if trials:
                finalists = counted(len(trials) // options.replicates, "finalist")
                seeds = counted(options.replicates, "seed")
                say("Finalists", f"{finalists} x {seeds}, {counted(len(trials), 'trial')}")
                stopped = runner.run_trials(trials, data, engine, options, parent)
        found = summarise_candidates(search.candidates, options)
        if trials:
            summary = summarise_study(trials, data, options, parent)
            summary = replace(summary, sections=[*summary.sections, found])
        else:
            summary = Summary(complete=False, best=None, text=found, sections=[])
        return runner.conclude(summary, stopped, data, options, parent)


def take_over(
    previous: Sequence[claims.UnfinishedRun],
    data: DataSet,
    options: SearchParameters,
    engine: engines.Engine,
    parent: Parent,
) -> None:
    """Take over the trials of interrupted runs of the search, and say how many there are."""
    earlier = [
        run
        for run in resume.previous_trials(previous, parent)
        if run.kind != REFIT or options.refits
    ]
    adopted, outdated = runner.adopt(earlier, previous, data, options, engine, parent)
    searches = " and ".join(search.run_id for search in previous)
    epochs = counted(sum(run.epochs for run in adopted), "epoch")
    say("Resuming", f"search {searches}: {counted(len(adopted), 'trial')}, {epochs} trained")
    console.say_lines(outdated)


def replicates(candidates: Sequence[Candidate], options: SearchParameters) -> list[TrialConfig]:
    """The trials of the finalists: the best complete candidates, each with new seeds."""
    complete = [each for each in best_first(candidates) if each.accuracy is not None]
    varied = [*options.space.varied, "seed"]
    return [
        best.config.model_copy(update={"seed": best.config.seed + number}).among(
            varied, options.space.recipe
        )
        for best in complete[: options.finalists]
        for number in range(1, options.replicates + 1)
    ]


class Search:
    """The rounds of a search.

    Args:
        train: what a worker does with a trial, see `runner.train_all`.
    """

    def __init__(
        self,
        options: SearchParameters,
        data: DataSet,
        engine: engines.Engine,
        parent: Parent,
        train: Train = train_candidate,
    ):
        self.options = options
        self.data = data
        self.engine = engine
        self.parent = parent
        self.train = train
        self.candidates: list[Candidate] = []  # of all rounds that have begun, by their numbers
        self.epochs = halving.planned_epochs(
            options.possible_trials, options.proposed_at_once, options.stages
        )
        self.watch = Watch(parent, CANDIDATE, options.possible_trials, self.epochs)

    def run(self) -> str | None:
        """Propose and train all candidates that are not trained in the store.

        Returns:
            The reason that so many trials failed for that the search stopped; None if it did not stop.

        Raises:
            Superseded, WorkerDied: as `runner.train_all` does.
        """
        options = self.options
        proposals = Proposals(options.space, options.sampler, options.sampler_seed)
        while (left := options.possible_trials - len(self.candidates)) > 0:
            trials = proposals.propose(min(left, options.proposed_at_once))
            if not trials:
                say("Space", f"is exhausted after {counted(len(self.candidates), 'trial')}")
                break
            candidates, stopped = self._run_round(proposals.round, trials)
            self.candidates += candidates
            if stopped:
                return stopped
            proposals.learn([candidate.outcome for candidate in candidates])
        return None

    def _run_round(
        self, round_: int, trials: Sequence[TrialConfig]
    ) -> tuple[list[Candidate], str | None]:
        """Train the trials of a round from rung to rung; gives them, and why the search stopped."""
        first = len(self.candidates) + 1
        found: dict[int, Candidate] = {}  # by index
        going = list(range(len(trials)))
        each = TrialOptions.of(self.options, self.engine, CANDIDATE)
        each = replace(each, round=round_)
        runs = query.latest(query.children(self.parent, each.where))
        stages = self.options.stages
        for stage, following in zip(stages, [*stages[1:], None]):
            each = replace(each, pause_after=stage if following else None)
            here = [trials[index] for index in going]
            stopped = None
            if any(runner.is_pending(runs.get(trial.key), each) for trial in here):
                trained = sum(run.epochs for run in runs.values())
                self._say(round_, len(here), stage, found.values(), trained)
                stopped = runner.train_all(
                    here, self.data, self.engine, each, self.parent, self.train
                )
                if not stopped:
                    self._give_up(here, each)
                runs = query.latest(query.children(self.parent, each.where))
            for index in going:
                if run := runs.get(trials[index].key):
                    found[index] = Candidate.read(first + index, round_, trials[index], run)
            if stopped:
                return [found[index] for index in sorted(found)], stopped
            if following:
                accuracies = [found[index].accuracy_at(stage) for index in going]
                going = [going[place] for place in halving.going_on(accuracies, stage, following)]
        for run in runs.values():
            if run.checkpoint:  # many of them would fill a disk
                if run.status not in (Status.PAUSED, Status.FINISHED) and not run.given_up:
                    tracking.pause_interrupted(run)
                resume.delete_checkpoint(run.run_id)
        return [found[index] for index in sorted(found)], None

    def _give_up(self, trials: Sequence[TrialConfig], each: TrialOptions) -> None:
        """Mark those that failed for good before anything builds on that."""
        runs = query.latest(query.children(self.parent, each.where))
        for trial in trials:
            if runner.is_pending(runs[trial.key], each):
                tracking.give_up(runs[trial.key])

    def _say(
        self, round_: int, trials: int, stage: int, found: Iterable[Candidate], trained: int
    ) -> None:
        """Say what is trained now, how good the best candidate is, and how much is left to train.

        Args:
            found: of this round.
            trained: the epochs of this round so far.
        """
        rounds = math.ceil(self.options.possible_trials / self.options.proposed_at_once)
        parts = [f"{round_} of {rounds}, {counted(trials, 'trial')} to epoch {stage}"]
        if best := [each.last_accuracy or 0.0 for each in best_first([*self.candidates, *found])]:
            parts.append(f"best validation accuracy {number(best[0], 4)}")
        left = self.epochs - sum(candidate.epochs for candidate in self.candidates) - trained
        say("Round", "; ".join([*parts, f"{left:,} of {counted(self.epochs, 'epoch')} left"]))
