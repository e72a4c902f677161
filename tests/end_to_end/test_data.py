import subprocess

import pandas as pd

from tests.conftest import PROJECT, StandIn
from tests.digits import write_folders
from tests.end_to_end.conftest import User


def test_data_logs_class_examples_counts_and_digest_from_a_git_url(
    user: User, standin_files: StandIn
) -> None:
    """From a clone of what is committed, into a path with a space."""
    repository = user.folder / "the repository"
    subprocess.run(["git", "clone", "-q", str(PROJECT), str(repository)], check=True)
    done = user.run("data", {}, project=f"file://{repository}")
    assert done.returncode == 0, done.stdout
    (run,) = user.runs()
    assert (run.info.run_name, run.info.status) == ("data", "FINISHED")
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=repository, text=True).strip()
    assert run.data.tags["mlflow.source.git.commit"] == head
    assert user.artifacts(run) == {"class_counts.csv", "class_examples.png"}
    counts = pd.read_csv(user.read(run, "class_counts.csv"), index_col="class")
    assert counts["train"].tolist() == [20] * 10
    assert counts["test"].tolist() == [4] * 10
    assert run.data.tags["data_digest"] == standin_files.digest


def test_data_shows_what_is_in_a_folder_of_images(user: User) -> None:
    photos = user.folder / "my photos"
    write_folders(photos, 10)
    (photos / "3" / "text.png").write_text("no image")
    done = user.run_script("data", {"data_dir": str(photos), "image_size": "24"})
    assert done.returncode == 0, done.stdout
    assert "Skipped   1 of 101 images, which cannot be read" in done.stdout
    assert f"{photos}/3/text.png: not an image" in done.stdout
    (run,) = user.runs()
    counts = pd.read_csv(user.read(run, "class_counts.csv"), index_col="class")
    assert counts.index.tolist() == list(range(10))
    assert counts.sum().sum() == 100
