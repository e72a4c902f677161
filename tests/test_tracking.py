import mlflow
import pytest

from cifar_mlflow import tracking


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The descriptions that were set."""
    texts: list[str] = []
    monkeypatch.setattr(mlflow, "set_tag", lambda name, text: texts.append(text))
    return texts


def test_a_description_that_no_tag_can_hold_ends_with_a_whole_line(described: list[str]) -> None:
    lines = [f"| {number} | 0.5 |" for number in range(2_000)]
    tracking.describe("\n".join(lines))
    (text,) = described
    assert len(text) <= mlflow.utils.validation.MAX_TAG_VAL_LENGTH
    *kept, last = text.splitlines()
    assert kept == lines[: len(kept)]
    assert len(kept) > 400
    assert last == "…"


def test_a_shorter_description_is_kept_as_it_is(described: list[str]) -> None:
    tracking.describe("short\ntext")
    assert described == ["short\ntext"]
