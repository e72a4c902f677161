import pytest

from cifar_mlflow.formatting import duration, printable


def test_printable_text_has_no_control_characters_and_no_passwords() -> None:
    assert printable("caf\udce9\x1b[31m\n é 猫") == "caf\ufffd\ufffd[31m\ufffd é 猫"
    for url in ("http://me:secret@host/a@b.png", "http://me@secret@host/a@b.png"):
        assert printable(f"{url}: gone") == "http://host/a@b.png: gone"
    assert printable("http://host/a@b.png") == "http://host/a@b.png"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (59, "59 s"), (100, "2 min"), (1980, "33 min"), (12_600, "3.5 h")],
)
def test_durations_are_in_units_that_one_plans_with(seconds: float, text: str) -> None:
    assert duration(seconds) == text
