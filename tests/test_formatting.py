import math

import pytest

from cifar_mlflow.formatting import (
    duration,
    literal_markdown,
    markdown_table,
    number,
    percent,
    printable,
    ranges,
    signed,
    significant,
    truncated,
)


def test_numbers_are_rounded_half_up_whatever_a_sum_did_to_them() -> None:
    assert number(0.7035) == number(0.70349999999999) == "0.704"
    assert number(0.5345) == number(0.53449999999999) == "0.535"
    halves = [k / 1000 + 0.0005 for k in range(1000)]
    assert [number(half) for half in halves] == [f"{(k + 1) / 1000:.3f}" for k in range(1000)]


def test_thousands_are_separated() -> None:
    assert number(122_570, 0) == "122,570"
    assert signed(-1234, 0) == "−1,234"


def test_a_difference_has_its_sign_unless_it_rounds_to_zero() -> None:
    assert signed(0.7035 - 0.68) == "+0.024"
    assert signed(-0.0214) == "−0.021"
    assert signed(-0.0001) == "0.000"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.02412, "0.0241"), (0.001, "0.00100"), (7.5, "7.50"), (99.94, "99.9"), (1234.5, "1,235")],
)
def test_a_number_has_the_significant_digits_asked_for(value: float, text: str) -> None:
    assert significant(value) == text


def test_an_unknown_number_is_a_dash() -> None:
    assert number(math.nan) == signed(math.nan) == percent(math.nan) == "–"
    assert significant(math.nan) == duration(math.nan) == "–"


def test_a_percentage_has_the_digits_asked_for() -> None:
    assert (percent(0.1234), percent(0.95, 0)) == ("12.3 %", "95 %")


@pytest.mark.parametrize(
    ("numbers", "text"), [([5], "5"), ([7, 5, 8, 9], "5, 7 to 9"), ([1, 2], "1 to 2")]
)
def test_consecutive_numbers_are_shown_as_a_range(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


def test_a_markdown_table_has_headings_rules_and_rows() -> None:
    lines = markdown_table(["class", "images"], [["cat", "12"], ["dog", "3"]], align="lr").split(
        "\n"
    )
    assert lines == [
        "| class&ensp; | images |",
        "| --- | ---: |",
        "| cat&ensp; | 12 |",
        "| dog&ensp; | 3 |",
    ]


def test_a_markdown_table_breaks_neither_means_nor_intervals() -> None:
    text = markdown_table(["a"], [["0.710 ± 0.010 (0.685–0.735)"]])
    assert "0.710\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.010 (0.685–\N{WORD JOINER}0.735)" in text


def test_a_cell_of_a_markdown_table_cannot_end_its_column() -> None:
    assert markdown_table(["a"], [["x|y"]]).endswith(r"| x\|y |")


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


def test_a_name_in_markdown_is_no_markup() -> None:
    assert literal_markdown("sea_lion <b>*[a](b)*</b>") == r"sea\_lion \<b\>\*\[a\](b)\*\</b\>"
    assert literal_markdown("cat 2") == "cat 2"
    assert literal_markdown("a\n# b") == "a\ufffd\\# b"


def test_a_text_that_is_too_long_ends_after_a_whole_line() -> None:
    assert truncated("one\ntwo\nthree", 9) == "one\n…"
    assert truncated("one\ntwo", 7) == "one\ntwo"
