"""How a launch is doing, at the terminal: a live table of trials by batch size, the few at work, and the time left.

It serves every engine: all it is told is the plan and how its tasks stand. What to show is worked out first, as a plain
value, and then drawn.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from surge_sweeps.cli.console import err, progress_bar
from surge_sweeps.counting import counted
from surge_sweeps.curves import Status
from surge_sweeps.launch.base import IN_FLIGHT, TaskState
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.packs import STEP_COST_EXAMPLES
from surge_sweeps.launch.watch import OnStatus
from surge_sweeps.sweep import Trial

#: What became of a trial, as far as is known; `ended`: with a result, and which one the engine cannot tell.
Standing = Literal["waiting", "running", "finished", "diverged", "capped", "ended", "failed"]
#: Shown always, and the others where there are any.
_ALWAYS: tuple[Standing, ...] = ("waiting", "running", "finished", "diverged", "failed")
_ORDER: tuple[Standing, ...] = ("waiting", "running", "finished", "diverged", "capped", "ended", "failed")
_STYLES: Mapping[Standing, str] = {"running": "cyan", "finished": "green", "ended": "green", "failed": "red"}
#: Batch sizes that get a line of their own, and tasks at work that are named.
MAX_ROWS = 12
MAX_RUNNING = 4
MAX_WIDTH = 80

Results = Callable[[], Mapping[str, Status]]


class AtWork(NamedTuple):
    """A task that runs: what it does, and for how many seconds it was seen to."""

    label: str
    seconds: float


@dataclass(frozen=True)
class LaunchView:
    """What is shown of a launch.

    Attributes:
        title: names it. rows: batch size (0: tasks that are told their trials by W&B) -> how many trials stand how.
        at_work: longest first. seconds: since it was first looked at. seconds_left: None where nothing ended yet.
    """

    title: str
    rows: Mapping[int, Mapping[Standing, int]]
    at_work: Sequence[AtWork]
    seconds: float
    seconds_left: float | None

    @property
    def totals(self) -> Counter[Standing]:
        """How many trials stand how, over all batch sizes."""
        return Counter({name: sum(row.get(name, 0) for row in self.rows.values()) for name in _ORDER})

    def line(self) -> str:
        """All of it in a line.

        >>> LaunchView("x", {8: {"running": 1, "finished": 3}}, (), 60, 20).line()
        '3 of 4 trials ended: 3 finished; 1 running; about 0:00:20 left'
        """
        totals = self.totals
        ended = {name: count for name, count in totals.items() if name not in IN_FLIGHT and count}
        told = ", ".join(f"{count} {name}" for name, count in ended.items())
        parts = [
            f"{sum(ended.values()):,} of {counted(sum(totals.values()), 'trial')} ended{': ' * bool(told)}{told}"
        ]
        parts += [f"{totals[name]} {name}" for name in IN_FLIGHT[::-1] if totals[name]]
        parts += [f"about {_clock(self.seconds_left)} left"] if self.seconds_left else []
        return "; ".join(parts)


@dataclass
class Follower:
    """Follows one launch from look to look.

    Attributes:
        results: asked for how trials ended, as far as whoever runs them knows. clock: seconds that only go up.
    """

    results: Results = dict
    clock: Callable[[], float] = time.monotonic
    _first_s: float | None = None
    _seen_s: dict[int, float] = field(default_factory=dict)
    _done_before: float = 0.0
    _costs: Mapping[str, float] = field(default_factory=dict)

    def look(self, launch: Launch, states: Mapping[int, TaskState]) -> LaunchView:
        """What to show now."""
        now, plan, results = self.clock(), launch.plan, self.results()
        self._costs = self._costs or _costs(plan.trials)
        rows: dict[int, Counter[Standing]] = {}
        todo = done = 0.0
        for task, state in states.items():
            if state.state == "running":
                self._seen_s.setdefault(task, now)
            else:
                self._seen_s.pop(task, None)
            trials = plan.tasks[task].trials
            for trial in trials:
                standing = _standing(state, results.get(trial))
                rows.setdefault(plan.trials[trial].batch_size, Counter())[standing] += 1
                if standing in IN_FLIGHT:
                    todo += self._costs[trial]
                else:
                    done += self._costs[trial]
            if not trials:
                rows.setdefault(0, Counter())[_standing(state, None)] += 1
        if self._first_s is None:
            self._first_s, self._done_before = now, done
        seconds, done = now - self._first_s, done - self._done_before
        at_work = sorted(
            (AtWork(plan.label_of(task), now - since) for task, since in self._seen_s.items()),
            key=lambda item: -item.seconds,
        )
        names = ", ".join(sweep.name for sweep in plan.sweeps)
        return LaunchView(
            f"{names} on {plan.engine}",
            dict(sorted(rows.items())),
            at_work,
            seconds,
            seconds * todo / done if done else None,
        )


@contextmanager
def launch_table(
    *, quiet: bool, results: Results = dict, doing: Callable[[], str] = lambda: "starting"
) -> Iterator[OnStatus]:
    """A callback that draws how a launch stands; a line a minute without a terminal, and nothing when quiet.

    Args:
        results: trial id -> how it ended, as far as is known; asked at every look.
        doing: what is done before the first look, asked while it is drawn.
    """
    follower = Follower(results)
    if quiet or not err.is_terminal:
        with progress_bar("training", quiet=quiet, lines=True) as progress:

            def tell(launch: Launch, states: Mapping[int, TaskState]) -> None:
                view = follower.look(launch, states)
                totals = view.totals
                in_flight = sum(totals[name] for name in IN_FLIGHT)
                progress(totals.total() - in_flight, totals.total(), view.line())

            yield tell
        return
    newest: tuple[Launch, Mapping[int, TaskState]] | None = None

    def draw_newest() -> RenderableType:
        # Drawn between looks as well: the clocks go on.
        return Text(doing(), style="dim") if newest is None else draw(follower.look(*newest))

    def take(launch: Launch, states: Mapping[int, TaskState]) -> None:
        nonlocal newest
        newest = launch, dict(states)

    with Live(console=err, transient=True, get_renderable=draw_newest, refresh_per_second=2):
        yield take


def draw(view: LaunchView) -> RenderableType:
    """A view as a table with a few lines below, at most `MAX_WIDTH` columns wide but for what is at work."""
    totals = view.totals
    columns = [name for name in _ORDER if name in _ALWAYS or totals[name]]
    table = Table(box=None, pad_edge=False)
    table.add_column("batch size", justify="right", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", style=_STYLES.get(name, ""), no_wrap=True)
    shown, rest = _shown(view.rows)
    for batch_size, row in shown.items():
        table.add_row(f"{batch_size:,}" if batch_size else "agents", *_cells(row, columns))
    if rest:
        other: Counter[Standing] = Counter()
        for row in rest.values():
            other.update(row)
        table.add_row(f"{len(rest)} more", *_cells(other, columns), style="dim")
    if len(view.rows) > 1:
        table.add_row("all", *_cells(totals, columns), style="bold")
    lines = [f"{_clock(item.seconds)}  {item.label}" for item in view.at_work[:MAX_RUNNING]]
    if len(view.at_work) > MAX_RUNNING:
        lines.append(f"and {len(view.at_work) - MAX_RUNNING} more at work")
    # Names may come from anywhere: plain text, no markup.
    return Group(
        _head(view), table, *(Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in lines)
    )


def _head(view: LaunchView) -> Text:
    left = "" if view.seconds_left is None else f", about {_clock(view.seconds_left)} left"
    tail = f"  {_clock(view.seconds)}{left}"
    head = Text(view.title, no_wrap=True, overflow="ellipsis")
    head.stylize("bold")
    head.truncate(max(10, min(err.width, MAX_WIDTH) - len(tail)), overflow="ellipsis")
    return head.append(tail)


def _shown(
    rows: Mapping[int, Mapping[Standing, int]],
) -> tuple[Mapping[int, Mapping[Standing, int]], Mapping[int, Mapping[Standing, int]]]:
    """The batch sizes that get a line, those with work left before the others, and the rest."""
    if len(rows) <= MAX_ROWS:
        return rows, {}
    busy = [size for size, row in rows.items() if any(row.get(name) for name in IN_FLIGHT)]
    first = {*(busy + [size for size in rows if size not in set(busy)])[: MAX_ROWS - 1]}
    return (
        {size: row for size, row in rows.items() if size in first},
        {size: row for size, row in rows.items() if size not in first},
    )


def _cells(row: Mapping[Standing, int], columns: Sequence[Standing]) -> list[str]:
    return [f"{row.get(name, 0):,}" if row.get(name) else "." for name in columns]


def _standing(state: TaskState, result: Status | None) -> Standing:
    # A pack that failed may have left results; a trial that has one has ended, whatever became of its task.
    if result in ("finished", "diverged", "capped"):
        return result
    return state.state


def _costs(trials: Mapping[str, Trial]) -> dict[str, float]:
    """Trial id -> its share of the work: by examples where every trial says how many; else all count the same."""
    examples = {name: trial.cost_examples for name, trial in trials.items()}
    return {
        name: 1.0
        if None in examples.values() or number is None
        else number * (1 + STEP_COST_EXAMPLES / trials[name].batch_size)
        for name, number in examples.items()
    }


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"
