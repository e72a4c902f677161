"""A search as a user runs it, killed at its first rung and run again."""

import pandas as pd

from tests.end_to_end.conftest import User, shown_by

SEARCH = {"architecture": "small", "batch_size": "16,32", "optimizer": "sgd", "rungs": "1,2"}
SEARCH |= {"trials": "2", "finalists": "1", "replicates": "2", "workers": "2", "threads": "1"}


def test_a_killed_search_goes_on_and_registers_the_best_replicate_of_its_finalist(
    user: User,
) -> None:
    held = user.held_after(epoch=1)
    process = held.start_trials(held.script("search", SEARCH), trials=2)
    process.kill()
    shown_by(process)
    held.open_gate()
    done = user.run("search", SEARCH | {"workers": "1"})
    assert done.returncode == 0, done.stdout
    assert "2 trials, 2 epochs trained" in done.stdout

    first, second = user.runs("tags.kind = 'search'")
    assert (first.info.status, second.info.status) == ("KILLED", "FINISHED")
    candidates = [
        run
        for run in user.runs("tags.kind = 'candidate'")
        if run.data.tags["mlflow.parentRunId"] == second.info.run_id
    ]
    # Both were killed after the rung's epoch. The better one goes on in a new run, the other ends.
    assert sorted(run.info.status for run in candidates) == ["FINISHED", "KILLED", "SCHEDULED"]
    for run in user.runs("tags.kind = 'candidate'"):
        assert not any(name.startswith("test") for name in run.data.metrics)
        assert "model_uri" not in run.data.tags
        assert "checkpoint" not in user.artifacts(run)
    complete = next(run for run in candidates if run.info.status == "FINISHED")
    points = user.client.get_metric_history(complete.info.run_id, "val_accuracy")
    assert [point.step for point in points] == [1, 2]

    table = pd.read_csv(user.read(second, "trials.csv"))
    assert table["epochs"].sum() == second.data.metrics["search_epochs"] == 3
    replicates = user.runs("tags.kind = 'trial'")
    assert sorted(run.data.params["seed"] for run in replicates) == ["1", "2"]
    assert all("test_accuracy" in run.data.metrics for run in replicates)
    champion = user.client.get_model_version_by_alias("cifar10-cnn", "champion")
    assert champion.run_id == second.data.tags["best_run_id"]
    best = max(replicates, key=lambda run: run.data.metrics["kept_val_accuracy"])
    assert champion.run_id == best.info.run_id
