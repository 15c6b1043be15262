"""A set of trials as few rectangular sweeps: what is missing of a grid, in the only form that a grid sweep can take.

A W&B grid sweep is a product of its axes. Cells that crashed here and there are none, but any set of cells is a union
of disjoint products.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import permutations
from typing import NamedTuple

from surge_sweeps.sweep import Sweep, Trial

_Box = tuple[frozenset[float], ...]
_AXES = 3


class Rectangle(NamedTuple):
    """Every combination of these learning rates, batch sizes and seeds, each ascending."""

    lr: tuple[float, ...]
    batch_size: tuple[int, ...]
    seed: tuple[int, ...]


def rectangles(trials: Iterable[Trial]) -> list[Rectangle]:
    """Cover the cells of `trials` exactly, no cell twice, by few rectangles (not always the fewest); largest first.

    >>> sweep = Sweep(lr=(0.1, 0.2), batch_size=(8, 16), seed=(0, 1))
    >>> rectangles(sweep.trials()) == [Rectangle((0.1, 0.2), (8, 16), (0, 1))]
    True
    >>> rectangles(trial for trial in sweep.trials() if trial.lr > 0.1 or trial.batch_size == 8)
    [Rectangle(lr=(0.1, 0.2), batch_size=(8,), seed=(0, 1)), Rectangle(lr=(0.2,), batch_size=(16,), seed=(0, 1))]
    """
    cells: list[_Box] = [
        (frozenset([lr]), frozenset([batch_size]), frozenset([seed]))
        for lr, batch_size, seed in {(trial.lr, trial.batch_size, trial.seed) for trial in trials}
    ]
    cover = min((_merged(cells, order) for order in permutations(range(_AXES))), key=len)
    found = [
        Rectangle(tuple(sorted(lr)), tuple(sorted(map(int, batch))), tuple(sorted(map(int, seed))))
        for lr, batch, seed in cover
    ]
    return sorted(found, key=lambda box: (-len(box.lr) * len(box.batch_size) * len(box.seed), box))


def follow_up(sweep: Sweep, missing: Iterable[Trial]) -> list[Sweep]:
    """Small sweeps of just the `missing` trials of `sweep`: same command, program and constants, hence same trial ids.

    One sweep keeps the name of `sweep` with "-missing" added, several are numbered from 1. Trials that are not of
    `sweep` are left out.

    >>> sweep = Sweep(lr=(0.1, 0.2), batch_size=(8,), seed=(0, 1), name="digits")
    >>> [small] = follow_up(sweep, sweep.trials()[2:])
    >>> small.name, small.lr, [trial.trial_id for trial in small.trials()] == [
    ...     trial.trial_id for trial in sweep.trials()[2:]]
    ('digits-missing', (0.2,), True)
    """
    own = {trial.trial_id for trial in sweep.trials()}
    boxes = rectangles(trial for trial in missing if trial.trial_id in own)
    names = [
        f"{sweep.name}-missing{f'-{number}' if len(boxes) > 1 else ''}" for number in _count_from_1(boxes)
    ]
    return [
        replace(sweep, lr=box.lr, batch_size=box.batch_size, seed=box.seed, name=name)
        for box, name in zip(boxes, names, strict=True)
    ]


def _count_from_1(items: Sequence[object]) -> range:
    return range(1, len(items) + 1)


def _merged(boxes: Sequence[_Box], order: Sequence[int]) -> list[_Box]:
    """Join boxes that differ along one axis only, axis after axis in `order`, until none are left to join."""
    merged = list(boxes)
    while True:
        before = len(merged)
        for axis in order:
            merged = _joined_along(merged, axis)
        if len(merged) == before:
            return merged


def _joined_along(boxes: Iterable[_Box], axis: int) -> list[_Box]:
    alike: dict[_Box, set[float]] = defaultdict(set)
    for box in boxes:
        alike[box[:axis] + box[axis + 1 :]] |= box[axis]
    return [(*others[:axis], frozenset(values), *others[axis:]) for others, values in alike.items()]
