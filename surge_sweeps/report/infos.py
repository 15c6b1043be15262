"""What each figure shows, as frozen values: figures draw them, tests compare them, and nothing here computes.

An open end of an interval is None. Where there is nothing to draw, `Missing` holds the sentence that stands in the
figure's place.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

Kind = Literal["value", "above", "below"]


class Point(NamedTuple):
    """An estimate with its interval, or a bound: "above" means the truth lies at or above `y`."""

    x: float
    y: float
    low: float | None
    high: float | None
    kind: Kind
    text: str


class Curve(NamedTuple):
    """A line through (x, y); `selected` marks the law that stands for the verdict."""

    name: str
    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    selected: bool


@dataclass(frozen=True)
class Info:
    """Base of everything a figure can show."""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain dicts and tuples."""
        return asdict(self)


@dataclass(frozen=True)
class Missing(Info):
    """No figure, and why."""

    why: str


@dataclass(frozen=True)
class OptimaSeries(Info):
    """Optimal learning rates of one target: its points and the law that leads.

    `shade` is its place among the losses of its family, 0 for the highest to 1 for the lowest.
    """

    label: str
    shade: float
    points: tuple[Point, ...]
    curve: Curve | None


@dataclass(frozen=True)
class OptimaInfo(Info):
    """Optimal learning rate against batch size, one series per target of a family."""

    title: str
    batch_unit: str
    series: tuple[OptimaSeries, ...]


@dataclass(frozen=True)
class LawsInfo(Info):
    """Candidate laws at one target, with the points they were fitted to.

    `stability_edge` is the largest learning rate that trains, by batch size; `peak` the interval of B_peak.
    """

    label: str
    shade: float
    batch_unit: str
    points: tuple[Point, ...]
    curves: tuple[Curve, ...]
    stability_edge: tuple[tuple[float, float], ...]
    peak: tuple[float | None, float | None] | None


@dataclass(frozen=True)
class ScaleSeries(Info):
    """One family's B_peak or B_crit against the loss."""

    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class ScaleInfo(Info):
    """B_peak or B_crit against the loss; `measured` is the range of batch sizes that were run."""

    name: str
    batch_unit: str
    measured: tuple[float, float]
    series: tuple[ScaleSeries, ...]


@dataclass(frozen=True)
class TradeoffSeries(Info):
    """Steps against examples at the optimal learning rates of one target.

    `points` are (examples, steps, batch size); `curve` is the fitted hyperbola; `corner` the point at B_crit, where
    both cost twice their minimum.
    """

    label: str
    shade: float
    points: tuple[tuple[float, float, int], ...]
    curve: tuple[tuple[float, float], ...]
    corner: tuple[float, float] | None


@dataclass(frozen=True)
class TradeoffInfo(Info):
    """Steps against examples, one series per target, to the `end`: a loss or a goal."""

    batch_unit: str
    end: str
    series: tuple[TradeoffSeries, ...]


class Cell(NamedTuple):
    """One cell of the loss surface; `response` is None where no run gave one.

    `score` compares the cells of one batch size: 1 is the best of them.
    """

    batch_size: int
    lr: float
    response: float | None
    score: float | None
    text: str


@dataclass(frozen=True)
class SurfaceInfo(Info):
    """Learning rate times batch size, coloured by each cell's score at its batch size.

    `worst_score` is where the colours end, `worst` and `best` say what their ends mean. `stability_edge` holds
    (batch size, largest learning rate that trains). `counts_steps`: whether a response is a number of steps.
    """

    label: str
    batch_unit: str
    response: str
    worst_score: float
    worst: str
    best: str
    cells: tuple[Cell, ...]
    optima: tuple[Point, ...]
    stability_edge: tuple[tuple[float, float], ...]
    counts_steps: bool


class PhaseBar(NamedTuple):
    """One stretch of the schedule, from and to in examples."""

    start: float
    end: float
    batch_size: int
    lr: float
    lr_low: float | None
    lr_high: float | None
    measured: bool
    text: str


@dataclass(frozen=True)
class ScheduleInfo(Info):
    """Batch size and learning rate against the examples seen; the last phase is drawn on for a while."""

    batch_unit: str
    phases: tuple[PhaseBar, ...]
