"""Numbers, durations, names and tables as text."""

import math
import re
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal, localcontext

UNKNOWN = "–"  # in place of a number that is not known


def printable(text: str) -> str:
    """``text`` as every terminal, file and run accepts it, without the passwords in its URLs.

    What cannot be printed, such as control characters and bytes of a file name that are not UTF-8,
    becomes U+FFFD; a URL loses its ``user:password@``.
    """
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return re.sub(r"(?<=://)[^/?#\s]*@", "", shown)


def as_text(value: object) -> str:
    """A parameter's value as MLproject and a command line spell it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def counted(number: int, noun: str) -> str:
    """``1 trial``, ``12 trials``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """A duration, as precise as a plan needs it: ``40 s``, ``7 min``, ``3.5 h``; ``–`` for NaN."""
    if math.isnan(seconds):
        return UNKNOWN
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def number(value: float, digits: int = 3) -> str:
    """A number with this many decimals and thousands separated by commas; ``–`` for NaN.

    Halves are rounded up, as by hand: 0.5345 to 0.535, and so is a sum that binary fractions turned
    into 0.53449999999.
    """
    if math.isnan(value):
        return UNKNOWN
    with localcontext(rounding=ROUND_HALF_UP):
        return f"{Decimal(repr(round(float(value), 9))):,.{digits}f}"


def significant(value: float, digits: int = 3) -> str:
    """A positive number with at least this many digits, not counting zeros before them, as ``0.0241``.

    Digits before the decimal point are all shown, as in ``1,234``; NaN is ``–``.
    """
    if math.isnan(value):
        return UNKNOWN
    return number(value, max(0, digits - 1 - math.floor(math.log10(value))))


def signed(value: float, digits: int = 3) -> str:
    """A difference: ``+0.012``, ``−0.012``, ``0.000``; ``–`` for NaN."""
    text = number(abs(value), digits)
    if text in (UNKNOWN, number(0, digits)):
        return text
    return ("+" if value > 0 else "−") + text


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage: ``12.3 %``; ``–`` for NaN."""
    return UNKNOWN if math.isnan(share) else f"{number(100 * share, digits)} %"


def ranges(numbers: Iterable[int]) -> str:
    """``5, 7 to 9``."""
    spans: list[list[int]] = []
    for value in sorted(numbers):
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in spans)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """A Markdown table for MLflow's UI.

    The UI puts nothing between columns and breaks cells anywhere. So there is a space after each cell,
    and neither ``0.710 ± 0.010`` nor ``0.685–0.735`` is broken.

    Args:
        align: a letter for each column, ``l`` (left) or ``r`` (right); by default all are left.
    """
    rules = ["---:" if letter == "r" else "---" for letter in align or "l" * len(headings)]
    lines = [
        "&ensp; | ".join(cell.replace("|", r"\|") for cell in cells) for cells in (headings, *rows)
    ]
    table = "\n".join(f"| {line} |" for line in [lines[0], " | ".join(rules), *lines[1:]])
    table = table.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
    return re.sub(r"(?<=\d)–(?=\d)", "–\N{WORD JOINER}", table)


def literal_markdown(text: str) -> str:
    """``text``, made printable, as Markdown that shows its letters and takes none of them for markup.

    `markdown_table` takes care of ``|``.
    """
    return re.sub(r"([\\`*_\[\]<>&~$#])", r"\\\1", printable(text))


def truncated(markdown: str, length: int) -> str:
    """``markdown`` itself, or as many of its first lines as ``length`` characters hold, and ``…``."""
    if len(markdown) <= length:
        return markdown
    return markdown[: length - 2].rpartition("\n")[0] + "\n…"
