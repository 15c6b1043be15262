"""The one line of a result that is read first: what to do, or else the best that is known."""

from __future__ import annotations

import re

from surge_sweeps.counting import counted
from surge_sweeps.report.infos import OptimaInfo, OptimaSeries, Point
from surge_sweeps.report.markdown import plain
from surge_sweeps.report.numbers import batch_text, lr_text
from surge_sweeps.report.page_infos import GroupInfo, ReportInfo
from surge_sweeps.report.words import CANNOT_TELL

#: Letters of what is said of one group; MLflow shows about three lines of a run's description, and a terminal as many.
LIMIT = 220

_NEXT_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z])")


def headline_of(info: ReportInfo) -> str:
    """The recommendation as one line of Markdown; where there is none, the learning rates that were found.

    Of several groups, that of the first one with a recommendation, one with a verdict before one without, else of the
    first one with optimal learning rates.
    """
    if not info.groups:
        return plain(f"No result. {info.empty}")
    advised = sorted((group for group in info.groups if group.advised), key=lambda group: not group.decided)
    known = [group for group in info.groups if _best_known(group) is not None]
    first = [*advised, *known, *info.groups][0]
    others = len(info.groups) - 1
    label = f"{_shortened(first.label, 40)}: " if others else ""
    more = f" ({counted(others, 'more group')} in the report.)" if others else ""
    return plain(f"{label}{_of_group(first)}{more}")


def _of_group(group: GroupInfo) -> str:
    if group.advised:
        return _first_sentences(group.recommendation)
    known = _best_known(group)
    if known is None:
        return _first_sentences(f"{group.sentence} {group.recommendation}")
    parts = [f"{_rates(known)}."]
    if group.title == CANNOT_TELL:
        parts.append(f"{CANNOT_TELL} how it depends on the batch size.")
    else:
        parts.append(f"Verdict: {group.title}.")
    if group.recommendation.startswith("No schedule"):
        parts.append("No schedule yet (the report says why).")
    return _first_sentences(" ".join(parts))


def _best_known(group: GroupInfo) -> OptimaSeries | None:
    """The target with the most optimal learning rates that are values, of the first kind of target that has one."""
    for family in group.families:
        if isinstance(family.optima, OptimaInfo):
            found = max(family.optima.series, key=lambda one: (len(_values(one)), one.shade))
            if _values(found):
                return found
    return None


def _values(series: OptimaSeries) -> list[Point]:
    return [point for point in series.points if point.kind == "value"]


def _rates(series: OptimaSeries) -> str:
    """The optimal learning rates at the smallest and the largest batch size that have one, and their highest."""
    points = _values(series)
    highest = max(points, key=lambda point: point.y)
    shown = sorted({points[0], highest, points[-1]}, key=lambda point: point.x)
    rates = [f"{lr_text(point.y)} at batch size {batch_text(point.x)}" for point in shown[:1]]
    rates += [f"{lr_text(point.y)} at {batch_text(point.x)}" for point in shown[1:]]
    return f"Optimal LR {', '.join(rates)} ({series.label})"


def _first_sentences(text: str) -> str:
    """The sentences that fit; the first one does in any case, and a word says where some are left out."""
    sentences = _NEXT_SENTENCE.split(text)
    kept = [_shortened(sentences[0], LIMIT)]
    for sentence in sentences[1:]:
        if len(" ".join([*kept, sentence])) > LIMIT:
            return " ".join([*kept, "More in the report."])
        kept.append(sentence)
    return " ".join(kept)


def _shortened(text: str, limit: int) -> str:
    """A text of at most so many letters, cut between words where it can be.

    >>> _shortened("one two three", 9)
    'one two ...'
    """
    if len(text) <= limit:
        return text
    return f"{text[: limit - 1].rpartition(' ')[0] or text[: limit - 1]} ..."
