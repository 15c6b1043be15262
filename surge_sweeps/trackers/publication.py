"""What is published of a result: the contract between a report and the trackers that show it.

A tracker shows it as it is: the names are safe as metric names, the Markdown is escaped, the files are whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from surge_sweeps.trackers.base import Scalar

#: In front of every metric name.
METRIC_PREFIX = "surge/"


def is_curve(metric: str) -> bool:
    """Whether a metric name is one of `Publication.curves`, by its form alone.

    >>> is_curve("surge/all/reach/optimal_lr_by_batch_size"), is_curve("surge/all/reach/b_peak")
    (True, False)
    """
    return "_by_" in metric.rpartition("/")[2]


@dataclass(frozen=True)
class PublishedTable:
    """A table of numbers and words; a missing value is None.

    Attributes:
        columns: their names, unique.
        rows: as long as `columns`.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Scalar | None, ...], ...]


@dataclass(frozen=True)
class RunNames:
    """Under which names the runs that a result was measured on hold what it was measured from.

    Attributes:
        loss: the metric that was read.
        lr, batch_size: keys of the configuration; None where it is none that a tracker could plot.
        examples: the metric that counts examples seen; None: the runs have none.
        seed: key of the configuration. groups: further keys that tell apart what must not be averaged.
    """

    loss: str
    lr: str | None = None
    batch_size: str | None = None
    examples: str | None = None
    seed: str | None = None
    groups: tuple[str, ...] = ()


class PublishedFigure(NamedTuple):
    """A still figure: its file name (plain, of one part), what it shows in a line of plain text, and its bytes."""

    file: str
    caption: str
    content: bytes


@dataclass(frozen=True)
class Publication:
    """A result as it is published.

    Attributes:
        title: what it is about, plain text of one line.
        scope: which part of a project was read, where that is not all of it: an earlier publication of the same scope
            is updated, one of another scope stays as it is. Empty for a whole project.
        answer: verdict, recommendation and key numbers, as Markdown.
        details: the tables of optimal learning rates, as Markdown.
        scalars: key results by metric name.
        optima: every optimal learning rate, one row per group, target and batch size.
        chart: the points of a scatter chart; the first two columns are its axes.
        files: file name -> content.
        headline: the recommendation, one line of Markdown.
        curves: metric name (see `is_curve`) -> its points: a whole number, which is the batch size or the rank of a
            loss, and a value; values that the data identify alone.
        figures: still figures, the most important one first; empty for a tracker that draws its own.
        runs: the names that the runs use; None where the runs are not on the tracker that shows this.
    """

    title: str
    scope: str
    answer: str
    details: str
    scalars: Mapping[str, Scalar]
    optima: PublishedTable
    chart: PublishedTable
    files: Mapping[str, bytes]
    headline: str = ""
    curves: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    figures: tuple[PublishedFigure, ...] = ()
    runs: RunNames | None = field(default=None)

    def fingerprint(self) -> str:
        """Twelve digits that differ whenever anything that is shown does.

        >>> empty = PublishedTable((), ())
        >>> one = Publication("p", "", "a", "b", {"x": 1.0}, empty, empty, {"fit.json": b"{}"})
        >>> from dataclasses import replace
        >>> one.fingerprint() == replace(one, scalars={"x": 1.0}).fingerprint()
        True
        >>> one.fingerprint() == replace(one, files={"fit.json": b"[]"}).fingerprint()
        False
        """
        words = [self.title, self.scope, self.headline, self.answer, self.details]
        tables = [[table.columns, table.rows] for table in (self.optima, self.chart)]
        runs = None if self.runs is None else vars(self.runs)
        files = {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}
        figures = [(*one[:2], hashlib.sha256(one.content).hexdigest()) for one in self.figures]
        state = [words, dict(self.scalars), tables, files, runs, dict(self.curves), figures]
        text = json.dumps(state, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]
