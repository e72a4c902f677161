import pandas as pd

from tests.conftest import StandIn
from tests.end_to_end.conftest import User


def test_data_logs_class_examples_counts_and_digest(user: User, standin_files: StandIn) -> None:
    done = user.run("data", {})
    assert done.returncode == 0, done.stdout
    (run,) = user.runs()
    assert (run.info.run_name, run.info.status) == ("data", "FINISHED")
    assert user.artifacts(run) == {"class_counts.csv", "class_examples.png"}
    counts = pd.read_csv(user.read(run, "class_counts.csv"), index_col="class")
    assert counts["train"].tolist() == [20] * 10
    assert counts["test"].tolist() == [4] * 10
    assert run.data.tags["data_digest"] == standin_files.digest
