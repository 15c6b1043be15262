"""Bootstrap draws with holes, handled in blocks that share the same holes so that each block is one matrix product."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def draw_patterns(draws: FloatArray) -> Iterator[tuple[BoolArray, BoolArray]]:
    """(rows, columns) masks of every group of draws that are finite in the same columns.

    >>> draws = np.array([[1.0, 2.0], [np.nan, 2.0], [3.0, 4.0]])
    >>> [(rows.tolist(), columns.tolist()) for rows, columns in draw_patterns(draws)]
    [([False, True, False], [False, True]), ([True, False, True], [True, True])]
    """
    patterns, group = np.unique(np.isfinite(draws), axis=0, return_inverse=True)
    for index, columns in enumerate(patterns):
        yield np.asarray(group.ravel() == index), columns


def parabola_peak(left: FloatArray, middle: FloatArray, right: FloatArray) -> FloatArray:
    """Where, in grid steps from the middle, the parabola through three heights has its top; within half a step.

    >>> parabola_peak(np.array([0.0]), np.array([1.0]), np.array([1.0]))
    array([0.5])
    """
    bend = left - 2 * middle + right
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = 0.5 * (left - right) / bend
    return np.clip(np.where(bend < 0, shift, 0.0), -0.5, 0.5)
