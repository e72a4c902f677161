"""The space of a search: what each field of a trial may be, from its text on the command line.

A text is a value (``adam``), a choice (``32,64,128``), a range (``0.001..0.1``, of whole numbers where the
field is one), or a logarithmic range (``log:0.001..0.1``).
"""

import itertools
import math
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError, create_model

from cifar_mlflow.config import Recipe, TrialConfig
from cifar_mlflow.errors import UsageError, one_line
from cifar_mlflow.formatting import as_text

LOG = "log:"
Value = str | int | float
# All trials of a search have these in common, because otherwise their accuracies would not compare.
FIXED = {
    "epochs": "rungs stop trials early",
    "validation_fraction": "accuracies on other images do not compare",
    "seed": "replicates trains the best configurations with several",
}


@dataclass(frozen=True)
class Choice:
    """One of some values, of the field's own type."""

    values: tuple[Value, ...]

    @property
    def size(self) -> float:
        return len(self.values)

    @property
    def examples(self) -> tuple[Value, ...]:
        return self.values

    def __str__(self) -> str:
        return as_text(self.values)


@dataclass(frozen=True)
class Range:
    """All numbers from ``low`` to ``high``, both included; whole ones if these are of type int."""

    low: float
    high: float
    logarithmic: bool

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int)

    @property
    def size(self) -> float:
        return self.high - self.low + 1 if self.whole else math.inf

    @property
    def values(self) -> Iterable[Value]:
        """All of them, if they are whole."""
        return range(int(self.low), int(self.high) + 1)

    @property
    def examples(self) -> tuple[Value, ...]:
        return self.low, self.high

    def __str__(self) -> str:
        return f"{LOG if self.logarithmic else ''}{self.low}..{self.high}"


Domain = Choice | Range


@dataclass(frozen=True)
class Space:
    """The domain of every field of a trial; a field with one value is fixed.

    Args:
        recipe: what the trials are named after.
    """

    domains: Mapping[str, Domain]
    recipe: Recipe | None = None

    @classmethod
    def parse(cls, texts: Mapping[str, Sequence[str]], recipe: Recipe | None = None) -> Self:
        """The space that the texts of all fields describe, the items of a comma list one by one.

        Raises:
            UsageError: one line that names the field, what is wrong with its text, and what is allowed.
        """
        space = cls({name: _domain(name, items) for name, items in texts.items()}, recipe)
        for name, why in FIXED.items():
            if space.domains[name].size > 1:
                raise UsageError(
                    f"{name}={space.domains[name]}: a search takes a single value; {why}"
                )
        if not space.varied:
            raise UsageError(
                "there is nothing to search: give a parameter a choice, such as batch_size=32,64, or a "
                "range, such as learning_rate=log:0.001..0.1"
            )
        for _ in space.examples():  # which validates what fields demand of each other
            pass
        return space

    @property
    def varied(self) -> dict[str, Domain]:
        """The domains that have more than one value."""
        return {name: domain for name, domain in self.domains.items() if domain.size > 1}

    @property
    def size(self) -> float:
        """The number of different configurations; infinite with a range of numbers that are not whole."""
        return math.prod(domain.size for domain in self.domains.values())

    def configurations(self) -> Iterator[TrialConfig]:
        """All of a finite space; none of an infinite one."""
        if self.size == math.inf:
            return
        for values in itertools.product(*(domain.values for domain in self.varied.values())):
            yield self.trial(dict(zip(self.varied, values)))

    def trial(self, values: Mapping[str, Value]) -> TrialConfig:
        """The configuration with these values of the varied fields.

        Raises:
            UsageError: the values are not allowed together.
        """
        fixed = {name: domain.examples[0] for name, domain in self.domains.items()}
        try:
            trial = TrialConfig.model_validate({**fixed, **values})
        except ValidationError as error:
            raise UsageError(one_line(error)) from None
        return trial.among(self.varied, self.recipe)

    def examples(self) -> Iterator[TrialConfig]:
        """Trials in which every two values of two fields occur together; of a range both ends.

        A rule of TrialConfig concerns two fields at most, so these show whether all trials are valid.
        """
        varied = self.varied
        if len(varied) == 1:
            ((name, domain),) = varied.items()
            yield from (self.trial({name: value}) for value in domain.examples)
        for (one, first), (other, second) in itertools.combinations(varied.items(), 2):
            for values in itertools.product(first.examples, second.examples):
                yield self.trial(dict(zip((one, other), values)))

    def identity(self) -> dict[str, str]:
        """The domains as text, without those that are a field's default, as for `TrialConfig.key`."""
        default = TrialConfig().model_dump()
        return {
            name: str(domain)
            for name, domain in self.domains.items()
            if domain.examples != (default[name],)
        }


def accepted(name: str) -> str:
    """What a search takes for a field: one value, a comma list, or a range too."""
    if name in FIXED:
        return "one value"
    is_number = _is_number(TrialConfig.model_fields[name].annotation)
    return "comma list or range" if is_number else "comma list"


def _domain(name: str, items: Sequence[str]) -> Domain:
    ranges = [item for item in items if ".." in item]
    if not ranges:
        values = tuple(_value(name, item) for item in items)
        for value, item in zip(values, items):
            if values.count(value) > 1:
                raise UsageError(f"{name}={as_text(tuple(items))}: {item} is given twice")
        return Choice(values)
    text = as_text(tuple(items))
    if len(items) > 1:
        raise UsageError(f"{name}={text}: input should be one range, or values without a range")
    if not _is_number(TrialConfig.model_fields[name].annotation):
        raise UsageError(
            f"{name}={text}: only numbers have ranges; input should be values with commas"
        )
    logarithmic = text.startswith(LOG)
    low, high = (_value(name, end) for end in text.removeprefix(LOG).split("..", 1))
    if isinstance(low, str) or isinstance(high, str):
        raise UsageError(f"{name}={text}: the ends of a range should be numbers")
    if low >= high:
        raise UsageError(f"{name}={text}: the first number of a range should be the smaller one")
    if logarithmic and low <= 0:
        raise UsageError(f"{name}={text}: a logarithmic range should begin above 0")
    return Range(low, high, logarithmic)


def _value(name: str, text: str) -> Value:
    """A value of a field, checked without regard to other fields."""
    try:
        value: Value = getattr(_alone(name).model_validate({name: text}), name)
    except ValidationError as error:
        raise UsageError(one_line(error)) from None
    return value


@cache
def _alone(name: str) -> type[BaseModel]:
    """A model of one field of a trial."""
    field = TrialConfig.model_fields[name]
    fields: dict[str, Any] = {name: (field.annotation, field)}
    return create_model(name, **fields)


def _is_number(kind: Any) -> bool:
    """Whether a field's type is a number, perhaps among others."""
    if get_origin(kind) is Annotated:
        return _is_number(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return any(map(_is_number, get_args(kind)))
    return get_origin(kind) is not Literal and issubclass(kind, int | float)
