"""The points of runs while they are read: columns that grow, before a table is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: By how many points columns grow at a time.
_GROWTH = 2**22


class RunPoints(NamedTuple):
    """The points of one run, by rising steps, one a step; `examples` is NaN where they are not known."""

    step: NDArray[np.int64]
    loss: NDArray[np.float64]
    examples: NDArray[np.float64]


class PointColumns:
    """The points of many runs as they come, run after run in any order, in columns that grow where they lie.

    1e8 points fill most of the memory that there is: lists of small arrays would be held together with the table that
    is made of them.

    >>> points = PointColumns()
    >>> points.add("b", np.array([1, 2]), np.array([3.0, 2.0]))
    >>> points.add("a", np.array([1]), np.array([4.0]))
    >>> points["b"].loss, sorted(points.runs())
    (array([3., 2.]), ['a', 'b'])
    """

    def __init__(self) -> None:
        self.step = np.empty(0, dtype=np.int64)
        self.loss = np.empty(0)
        self.examples = np.empty(0)
        self._places: dict[str, tuple[int, int]] = {}
        self._used = 0

    def runs(self) -> Mapping[str, tuple[int, int]]:
        """Run -> where its points begin and end in the columns."""
        return self._places

    def add(self, run: str, step: NDArray[np.int64], loss: NDArray[np.float64]) -> None:
        """Put the points of one more run behind the others; none of `[]`'s arrays may be in use."""
        start, self._used = self._used, self._used + len(step)
        if self._used > len(self.step):
            size = max(self._used, len(self.step) + _GROWTH)
            self.step.resize(size, refcheck=False)
            self.loss.resize(size, refcheck=False)
        self.step[start : self._used] = step
        self.loss[start : self._used] = loss
        self._places[run] = (start, self._used)

    def expect_examples(self) -> None:
        """Make room for the examples of every point; they are not known as long as nothing is written there."""
        self.examples = np.full(self._used, np.nan)

    def __getitem__(self, run: str) -> RunPoints:
        """The points of a run, as views; the examples are empty until they are expected."""
        place = slice(*self._places[run])
        return RunPoints(self.step[place], self.loss[place], self.examples[place])
