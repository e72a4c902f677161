"""Numbers, durations and names as text."""

import math
import re
from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal, localcontext

NOTHING = "–"  # in place of a number that is not known


def printable(text: str) -> str:
    """``text`` as any terminal, file and run takes it, without the passwords in its addresses.

    What cannot be printed, such as control characters and bytes of a file's name that are not UTF-8,
    becomes U+FFFD; an address loses its ``user:password@``.
    """
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return re.sub(r"(?<=://)[^/?#\s]*@", "", shown)


def as_text(value: object) -> str:
    """A parameter's value as MLproject and a command line spell it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """A duration as a person plans with it: ``40 s``, ``7 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def fixed(value: float, digits: int = 3) -> str:
    """A number with so many decimals, rounded as by hand: 0.5345 up, and so what a sum made 0.53449999999."""
    with localcontext(rounding=ROUND_HALF_UP):
        return f"{Decimal(repr(round(float(value), 9))):.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """A difference: ``+0.012``, ``−0.012``, ``0.000``; ``–`` for NaN."""
    if math.isnan(value):
        return NOTHING
    text = fixed(abs(value), digits)
    if float(text) == 0:
        return text
    return ("+" if value > 0 else "−") + text


def number(value: float, digits: int = 3) -> str:
    """A number with so many decimals; ``–`` for NaN."""
    return NOTHING if math.isnan(value) else fixed(value, digits)


def percent(share: float) -> str:
    """A share as a percentage: ``12.3 %``; ``–`` for NaN."""
    return NOTHING if math.isnan(share) else f"{fixed(100 * share, 1)} %"


def ranges(numbers: Iterable[int]) -> str:
    """``5, 7 to 9``."""
    spans: list[list[int]] = []
    for value in sorted(numbers):
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in spans)
