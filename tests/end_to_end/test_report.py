import pytest

from tests.end_to_end.conftest import Studies, User
from tests.html_page import Page


@pytest.fixture(scope="module")
def reported(studies: Studies) -> tuple[User, str]:
    """The user after a report of the first study, and what the terminal showed of it."""
    user = studies.user
    done = user.run(
        "report",
        {"output": str(user.folder / "study.html"), "run_id": studies.first.info.run_id},
    )
    assert done.returncode == 0, done.stdout
    return user, done.stdout


def test_the_page_is_a_file_and_an_artifact_and_the_terminal_says_where(
    reported: tuple[User, str],
) -> None:
    user, shown = reported
    run = user.runs("tags.kind = 'report'")[0]
    assert (run.info.run_name, run.info.status) == ("report", "FINISHED")
    assert user.artifacts(run) == {"report.html"}
    page = (user.folder / "study.html").read_text()
    assert user.read(run, "report.html").read_text() == page
    assert f"Report    {user.folder / 'study.html'}" in shown
    assert f"Artifact  report.html of run {run.info.run_id}" in shown
    assert [path.name for path in user.folder.glob("*html*")] == ["study.html"]


def test_the_page_shows_the_grid_and_what_is_missing(reported: tuple[User, str]) -> None:
    user, _ = reported
    page = Page((user.folder / "study.html").read_text())
    assert page.faults == []
    grid = user.runs("tags.kind = 'grid'")[0]
    assert grid.info.run_id in page.text
    best = user.client.get_run(grid.data.tags["best_run_id"])
    assert f"The best model of the grid is {best.info.run_name}" in page.text
    assert "Extra figure. The small network, relu, batch 32, sgd" in page.text
    assert "These runs did not use CIFAR-10" in page.text
    assert "Missing: Figures 2 to 4" in page.text
    assert "It is now the champion: cifar10-cnn version 1." in page.text
