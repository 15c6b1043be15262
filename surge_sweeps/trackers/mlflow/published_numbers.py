"""The key results of a publication as metrics and tags of a run.

MLflow keeps every value of a metric and deletes none. So a number's step is the number of the publication, counted
from 0, and the newest one is MLflow's latest value. A point of a curve has its batch size (or the rank of its loss) as
step. Points can be added to a curve and not be moved: a chart would show them at their old and at their new place. So a
curve that changed goes on under a new name (`..._v2`). What no longer holds gets NaN as its latest value, and MLflow's
pages then draw no chart of it. Words are tags, which are replaced and removed. What would be a chart each and says
little alone, such as the ends of intervals, and single learning rates, which MLflow's bars round to two decimals, stand
in the table of key results.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from surge_sweeps.extras import require
from surge_sweeps.trackers.publication import METRIC_PREFIX, is_curve

#: In front of the tags of results; what follows is the group and what it is.
RESULT_TAG = "surge.result."
_ENDS = ("_low", "_high")
#: MLflow writes two decimals on the bar of a single value: a learning rate of 0.004 would read 0.00.
_RATE = "_lr"
_VERSION = re.compile(r"_v\d+$")


class Moment(NamedTuple):
    """Which publication of a run it is, counted from 0, and when it began, in ms since 1970."""

    number: int
    stamp_ms: int


def result_tags(scalars: Mapping[str, Any]) -> dict[str, str]:
    """The results that are words, summed up over the targets of a group: MLflow shows tags above the note.

    >>> verdicts = {f"surge/all/loss-{loss}/verdict": "surge" for loss in (1, 2)} | {"surge/all/loss-3/verdict": "sqrt"}
    >>> result_tags(verdicts | {"surge/all/loss-1/b_peak": 30.0})
    {'surge.result.all/verdict': 'surge at 2 of 3, sqrt at 1 of 3'}
    """
    words: dict[str, list[str]] = {}
    for name, value in scalars.items():
        if isinstance(value, str):
            group, *_, last = name.removeprefix(METRIC_PREFIX).split("/")
            words.setdefault(f"{RESULT_TAG}{group}/{last}", []).append(value)
    return {tag: _summed_up(found) for tag, found in words.items()}


def _summed_up(found: Sequence[str]) -> str:
    counts = Counter(found).most_common()
    if len(counts) == 1:
        return found[0]
    return ", ".join(f"{word} at {count} of {len(found)}" for word, count in counts)


def new_points(
    client: Any,
    run: Any,
    scalars: Mapping[str, Any],
    curves: Mapping[str, tuple[tuple[int, float], ...]],
    now: Moment,
) -> list[Any]:
    """The points to log, so that the newest of each metric are these results and no others.

    Args:
        client: of the store. run: as the client returned it. scalars, curves: as of `Publication`. now: this time.
    """
    metric = require("mlflow.entities", "mlflow").Metric
    latest = {name: value for name, value in run.data.metrics.items() if name.startswith(METRIC_PREFIX)}
    numbers = {name: float(value) for name, value in scalars.items() if _is_metric(name, value)}
    gone = {name for name, value in latest.items() if name not in numbers and not math.isnan(value)}
    numbers |= {name: math.nan for name in gone if not is_curve(name)}
    found = [metric(name, value, now.stamp_ms, now.number) for name, value in numbers.items()]
    for name in {*curves, *(_base(one) for one in latest if is_curve(one))}:
        wanted = dict(curves.get(name, ()))
        versions = {one: value for one, value in latest.items() if is_curve(one) and _base(one) == name}
        place = name if not versions else f"{name}_v{len(versions) + 1}"
        for version in (one for one, value in versions.items() if not math.isnan(value)):
            history = client.get_metric_history(run.info.run_id, version)
            known = {point.step: point.value for point in history}
            if known.items() <= wanted.items() and len(known) == len(history):
                place = version
                wanted = {step: value for step, value in wanted.items() if step not in known}
            else:
                found.append(metric(version, math.nan, now.stamp_ms, max(known)))
        found += [metric(place, value, now.stamp_ms, step) for step, value in wanted.items()]
    return found


def _base(curve: str) -> str:
    """A curve's name without its version.

    >>> _base("surge/all/reach/optimal_lr_by_batch_size_v2")
    'surge/all/reach/optimal_lr_by_batch_size'
    """
    return _VERSION.sub("", curve)


def _is_metric(name: str, value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and not name.endswith((*_ENDS, _RATE)) and name.count("/") > 1
