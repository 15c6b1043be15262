"""Sweep axes from text: learning rates in log space, batch sizes by a factor, seeds by count.

1e-4:1e-1:12      12 learning rates, evenly spaced in log space, ends included
4:512:2           batch sizes 4, 8, 16 ... 512
0.001,0.003,0.01  just these values
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from surge_sweeps.errors import SurgeError

Number = TypeVar("Number", int, float)
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

#: Six digits identify a learning rate and stay readable in a file; the grid's spacing is far coarser.
SIGNIFICANT_DIGITS = 6


def learning_rates(text: str) -> tuple[float, ...]:
    """Learning rates from `start:stop:count` (log-spaced, both ends included) or from comma-separated values.

    Raises:
        SurgeError: not of this form, not positive, or a value twice.

    >>> learning_rates("1e-3:1e-1:3")
    (0.001, 0.01, 0.1)
    >>> learning_rates("0.1,0.2")
    (0.1, 0.2)
    """
    form = "Write start:stop:count, as in 1e-4:1e-1:12, or values, as in 0.001,0.003,0.01."
    if ":" in text:
        start, stop, count = _three(text, form, float, float, int)
        if not (0 < start < stop and math.isfinite(stop) and count >= 2):
            raise SurgeError(
                f"the learning rates {text!r} need 0 < start < stop and a count of 2 or more.", form
            )
        values = [float(f"{value:.{SIGNIFICANT_DIGITS}g}") for value in np.geomspace(start, stop, count)]
    else:
        values = _values(text, form, float)
    if not all(value > 0 and math.isfinite(value) for value in values):
        raise SurgeError(f"the learning rates {text!r} must be positive.", form)
    return tuple(distinct(values, "learning rate"))


def batch_sizes(text: str) -> tuple[int, ...]:
    """Batch sizes from `start:stop:factor` or from comma-separated values, in examples.

    The last one is the largest start * factor**k that does not exceed stop.

    Raises:
        SurgeError: not of this form, below 1, or a value twice.

    >>> batch_sizes("4:70:2")
    (4, 8, 16, 32, 64)
    >>> batch_sizes("1:10:1.5")
    (1, 2, 3, 5, 8)
    """
    form = "Write start:stop:factor, as in 4:512:2, or values, as in 8,16,32."
    if ":" not in text:
        values = _values(text, form, int)
        if not all(value >= 1 for value in values):
            raise SurgeError(f"the batch sizes {text!r} must be 1 or more.", form)
        return tuple(distinct(values, "batch size"))
    start, stop, factor = _three(text, form, int, int, float)
    if not (1 <= start <= stop and factor > 1 and math.isfinite(factor)):
        raise SurgeError(f"the batch sizes {text!r} need 1 <= start <= stop and a factor above 1.", form)
    sizes: list[int] = []
    exact = float(start)
    # The tolerance keeps 4 * 1.4142136**14 = 512.0002 inside a stop of 512.
    while exact <= stop * (1 + 1e-4):
        if round(exact) not in sizes:
            sizes.append(round(exact))
        exact *= factor
    return tuple(sizes)


def seeds(text: str) -> tuple[int, ...]:
    """Seeds from a count (`4` means 0, 1, 2, 3) or from comma-separated values.

    >>> seeds("3")
    (0, 1, 2)
    >>> seeds("7,11")
    (7, 11)
    """
    form = "Write how many, as in 4, or the seeds themselves, as in 0,1,2."
    values = _values(text, form, int)
    if any(value < 0 for value in values) or (len(values) == 1 and values[0] < 1 and "," not in text):
        raise SurgeError(f"the seeds {text!r} must be 0 or more, and there must be at least one.", form)
    if len(values) == 1 and "," not in text:
        return tuple(range(values[0]))
    return tuple(distinct(values, "seed"))


def distinct(values: Sequence[Number], what: str) -> Sequence[Number]:
    """The values themselves, none of them twice.

    Raises:
        SurgeError: a value stands twice.
    """
    seen: set[Number] = set()
    for value in values:
        if value in seen:
            raise SurgeError(f"the {what} {value!r} is given twice.", "Give each value once.")
        seen.add(value)
    return values


def _values(text: str, form: str, read: Callable[[str], Number]) -> list[Number]:
    parts = [part for part in text.split(",") if part.strip()]
    if not parts:
        raise SurgeError("no values given.", form)
    return [_read(part, text, form, read) for part in parts]


def _three(
    text: str, form: str, a: Callable[[str], A], b: Callable[[str], B], c: Callable[[str], C]
) -> tuple[A, B, C]:
    parts = text.split(":")
    if len(parts) != 3:
        raise SurgeError(f"{text!r} does not have three parts.", form)
    return _read(parts[0], text, form, a), _read(parts[1], text, form, b), _read(parts[2], text, form, c)


def _read(part: str, text: str, form: str, read: Callable[[str], A]) -> A:
    try:
        return read(part)
    except ValueError as error:
        raise SurgeError(f"{part.strip()!r} in {text!r} is not a number of the kind needed.", form) from error
