"""What became of each planned trial, counted; and what is left to do, in trials, examples and time.

Each trial stands in exactly one state, by its best run: a result counts before a run that goes on, and that before one
that ended without a result.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from surge_sweeps.curves import RESULT_STATUSES
from surge_sweeps.sweep import Sweep, Trial
from surge_sweeps.trackers.trial_outcomes import TrialOutcome

#: `finished`, `diverged`, `capped`: has its result. `running`: a run goes on. `crashed`: its run crashed, was stopped
#: or made room, and nobody works on it. `stale`: a run shows as going on and was silent for long. `missing`: no run.
State = Literal["finished", "diverged", "capped", "running", "crashed", "stale", "missing"]
STATES: tuple[State, ...] = get_args(State)
#: Without a result, and nobody works on it.
LEFT: tuple[State, ...] = ("crashed", "stale", "missing")


def state_of(outcome: TrialOutcome | None) -> State:
    """The state of a trial; None: it has no run.

    >>> state_of(None), state_of(TrialOutcome("diverged", "r1"))
    ('missing', 'diverged')
    """
    return "missing" if outcome is None else outcome.status


@dataclass(frozen=True)
class Standing:
    """How some trials stand.

    Attributes:
        counts: state -> how many trials. waiting: those of the trials left that an engine has.
        examples_left: that the trials left and running may still see, at most; None where a sweep states no budget.
        work_seconds_left: what they would take one after the other, an estimate; None where nothing tells.
        seconds_left: the same, with as many at once as run now; None where nothing tells, or nothing runs.
        running_now: trials at work at once, in the whole project.
    """

    counts: Mapping[State, int]
    waiting: int = 0
    examples_left: int | None = None
    work_seconds_left: float | None = None
    seconds_left: float | None = None
    running_now: int = 0

    @property
    def planned(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    @property
    def results(self) -> int:
        """Those that have their result."""
        return sum(self.counts[state] for state in STATES if state in RESULT_STATUSES)

    @property
    def left(self) -> int:
        """Those that a launch would run: without a result, and nobody works on them."""
        return sum(self.counts[state] for state in LEFT)

    @property
    def is_over(self) -> bool:
        """Whether every one has its result."""
        return self.results == self.planned

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON; null where a number is not known. The time by the clock is of the whole project only."""
        return {
            "planned": self.planned,
            **{state: self.counts[state] for state in STATES},
            "left": self.left,
            "waiting": self.waiting,
            "examples_left": self.examples_left,
            "work_seconds_left": rounded(self.work_seconds_left),
        }


@dataclass(frozen=True)
class ProjectStanding:
    """How a project stands.

    Attributes:
        total: all trials. batch_sizes: ascending, those of each. seconds_per_trial: batch size -> the median time of
            its results, for those that have one that was timed. sweeps: each with its own, in which a trial of two
            sweeps counts twice.
    """

    total: Standing
    batch_sizes: Mapping[int, Standing]
    seconds_per_trial: Mapping[int, float]
    sweeps: Sequence[tuple[Sweep, Standing]]


def project_standing(
    sweeps: Sequence[Sweep],
    outcomes: Mapping[str, TrialOutcome],
    now_ms: float,
    waiting: Collection[str] = (),
) -> ProjectStanding:
    """Count the trials of some sweeps and estimate what is left.

    Args:
        outcomes: trial id -> how it stands, for those that have a run. now_ms: milliseconds since 1970.
        waiting: ids of trials that an engine has.

    >>> sweep = Sweep(lr=(0.1, 0.2), batch_size=(8,), seed=(0,), constants={"max_steps": 10})
    >>> done, left = (trial.trial_id for trial in sweep.trials())
    >>> found = project_standing([sweep], {done: TrialOutcome("finished", "r1", start_ms=0, end_ms=5000)}, 9000)
    >>> found.total.results, found.total.left, found.total.examples_left, found.total.work_seconds_left
    (1, 1, 80, 5.0)
    """
    trials = {trial.trial_id: trial for sweep in sweeps for trial in sweep.trials()}
    clock = _Clock(trials, outcomes, now_ms)
    by_batch: dict[int, list[str]] = defaultdict(list)
    for trial_id, trial in trials.items():
        by_batch[trial.batch_size].append(trial_id)

    def stand(ids: Iterable[str]) -> Standing:
        return _stand({trial: trials[trial] for trial in ids}, outcomes, clock, waiting)

    return ProjectStanding(
        stand(trials),
        {batch: stand(by_batch[batch]) for batch in sorted(by_batch)},
        clock.seconds_per_trial,
        [(sweep, stand([trial.trial_id for trial in sweep.trials()])) for sweep in sweeps],
    )


def _stand(
    trials: Mapping[str, Trial],
    outcomes: Mapping[str, TrialOutcome],
    clock: _Clock,
    waiting: Collection[str],
) -> Standing:
    states: dict[str, State] = {trial: state_of(outcomes.get(trial)) for trial in trials}
    left = [trial for trial, state in states.items() if state in LEFT]
    running = [trial for trial, state in states.items() if state == "running"]
    examples = [_examples_left(trials[trial], outcomes.get(trial)) for trial in (*left, *running)]
    work = [clock.whole(trials[trial]) for trial in left]
    work += [clock.rest(trials[trial], outcomes[trial]) for trial in running]
    total = _sum(work)
    seconds = None
    if total is not None and (clock.running or not work):
        # The last one to begin still takes its time, however many run at once.
        known = [each for each in work if each is not None]
        seconds = max(total / max(clock.running, 1), max(known, default=0.0))
    return Standing(
        Counter(states.values()),
        sum(trial in waiting for trial in left),
        None if (sum_ := _sum(examples)) is None else round(sum_),
        total,
        seconds,
        clock.running,
    )


class _Clock:
    """How long trials take, by the results there are: the median at their batch size.

    Trials that stop early, at a target loss or as they diverge, are results like the others, so the median stands for
    the usual mix of both. A batch size without a timed result borrows from the nearest one that has some, by examples.
    """

    def __init__(
        self, trials: Mapping[str, Trial], outcomes: Mapping[str, TrialOutcome], now_ms: float
    ) -> None:
        self._now_ms = now_ms
        timed: dict[int, list[float]] = defaultdict(list)
        costs: dict[int, list[int]] = defaultdict(list)
        #: Trials at work now.
        self.running = 0
        for trial_id, trial in trials.items():
            outcome = outcomes.get(trial_id)
            self.running += outcome is not None and outcome.status == "running"
            if outcome is not None and outcome.is_result and (seconds := _duration_s(outcome)) is not None:
                timed[trial.batch_size].append(seconds)
                if (cost := trial.cost_examples) is not None:
                    costs[trial.batch_size].append(cost)
        #: Batch size -> seconds.
        self.seconds_per_trial = {batch: statistics.median(timed[batch]) for batch in sorted(timed)}
        self._cost = {batch: statistics.median(costs[batch]) for batch in costs}

    def whole(self, trial: Trial) -> float | None:
        """Seconds that a trial takes from its beginning."""
        batch = trial.batch_size
        if batch in self.seconds_per_trial:
            return self.seconds_per_trial[batch]
        cost = trial.cost_examples
        near = min(self._cost, key=lambda other: abs(math.log(other / batch)), default=None)
        if near is None or cost is None:
            return None
        return self.seconds_per_trial[near] * cost / self._cost[near]

    def rest(self, trial: Trial, outcome: TrialOutcome) -> float | None:
        """Seconds that a trial at work still takes."""
        whole = self.whole(trial)
        if whole is None or outcome.start_ms is None:
            return whole
        return max(0.0, whole - max(0.0, self._now_ms - outcome.start_ms) / 1000)


def _duration_s(outcome: TrialOutcome) -> float | None:
    if outcome.start_ms is None or outcome.end_ms is None or outcome.end_ms <= outcome.start_ms:
        return None
    return (outcome.end_ms - outcome.start_ms) / 1000


def _examples_left(trial: Trial, outcome: TrialOutcome | None) -> float | None:
    cost = trial.cost_examples
    if cost is None or outcome is None or outcome.status != "running" or not math.isfinite(outcome.examples):
        return cost
    return max(0.0, cost - outcome.examples)


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else math.fsum(value for value in known if value is not None)


def rounded(seconds: float | None) -> float | None:
    """Seconds to a thousandth.

    >>> rounded(1.2345), rounded(None)
    (1.234, None)
    """
    return None if seconds is None else round(seconds, 3)
