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


def test_a_damaged_file_is_one_line_and_the_run_fails(user: User, standin_files: StandIn) -> None:
    folder = user.folder / "damaged"
    folder.mkdir()
    for path in standin_files.folder.iterdir():
        content = path.read_bytes()
        cut = len(content) // 2 if path.name == "data_batch_2" else len(content)
        (folder / path.name).write_bytes(content[:cut])
    done = user.run("data", {"data_dir": str(folder)})
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert f"{folder}/data_batch_2: not a CIFAR-10 batch, or damaged" in line
    assert "Traceback" not in done.stdout
    assert user.runs()[0].info.status == "FAILED"
