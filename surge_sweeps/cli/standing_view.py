"""How a project's standing looks: a page for the terminal, a line for a log, data for a program."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from surge_sweeps.cli.console import out, printable
from surge_sweeps.counting import counted
from surge_sweeps.standing import LEFT, STATES, ProjectStanding, Standing, rounded

_TRACKERS = {"mlflow": "MLflow", "wandb": "W&B", "files": "files"}
_STYLES = {
    "finished": "green",
    "diverged": "magenta",
    "capped": "cyan",
    "running": "yellow",
    "crashed": "red",
    "stale": "red",
}
#: Parts of the bar, with a mark of its own each, so that nothing hangs on colours.
_MARKS = {"finished": "█", "diverged": "▓", "capped": "▒", "running": "░", "left": "·"}
_PLAIN_MARKS = {"finished": "#", "diverged": "x", "capped": "=", "running": ">", "left": "."}
_BAR_WIDTH = 72


class Seen(NamedTuple):
    """What the tracker said of a project.

    Attributes:
        at_s: when, seconds since 1970. unread: sweeps of a definition that cannot be read.
        away: why it gave no answer since, a sentence; empty where it did.
    """

    tracker: str
    project: str
    standing: ProjectStanding
    at_s: float
    unread: int = 0
    away: str = ""


def as_page(seen: Seen, *, watched: bool = False) -> RenderableType:
    """The whole, for a terminal of 80 columns."""
    standing = seen.standing
    names = ", ".join(printable(sweep.name) for sweep, _ in standing.sweeps[:3])
    more = f" and {len(standing.sweeps) - 3} more" if len(standing.sweeps) > 3 else ""
    head = Text.assemble(
        (printable(seen.project), "bold"),
        f" ({_TRACKERS.get(seen.tracker, seen.tracker)}), ",
        f"{counted(len(standing.sweeps), 'sweep')}: {names}{more}",
    )
    parts: list[RenderableType] = [head, Text(), _bar(standing.total), Text(), _batch_table(standing)]
    if len(standing.sweeps) > 1:
        parts += [Text(), _sweep_table(standing)]
    parts += [Text(), *(Text(line) for line in _sentences(seen))]
    if watched and not standing.total.is_over:
        clock = time.strftime("%H:%M:%S", time.localtime(seen.at_s))
        parts.append(Text(f"As of {clock}. Ctrl-C ends only the watching.", style="dim"))
        if seen.away:
            parts.append(Text(f"No answer since: {printable(seen.away)} It is asked again.", style="yellow"))
    return Group(*parts)


def as_line(seen: Seen) -> str:
    """The same in one line, with the time in UTC."""
    total = seen.standing.total
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seen.at_s))
    counts = ", ".join(f"{total.counts[state]:,} {state}" for state in STATES if total.counts[state])
    time_left = f"; about {duration(total.seconds_left)} left" if total.seconds_left else ""
    return f"{stamp} {total.results:,} of {counted(total.planned, 'trial')} done: {counts}{time_left}"


def as_json(seen: Seen) -> dict[str, object]:
    """The same as plain data; see the help of `surge-sweep status`."""
    standing = seen.standing
    seconds = standing.seconds_per_trial
    return {
        "schema": 1,
        "project": seen.project,
        "tracker": seen.tracker,
        **standing.total.to_dict(),
        "seconds_left": rounded(standing.total.seconds_left),
        "batch_sizes": [
            {"batch_size": batch, **each.to_dict(), "seconds_per_trial": rounded(seconds.get(batch))}
            for batch, each in standing.batch_sizes.items()
        ],
        "sweeps": [
            {"name": sweep.name, "sweep_id": sweep.sweep_id, **each.to_dict()}
            for sweep, each in standing.sweeps
        ],
        "unread_sweeps": seen.unread,
    }


def duration(seconds: float) -> str:
    """A time in the two largest units that matter.

    >>> duration(0.4), duration(70), duration(3 * 3600 + 125), duration(26 * 3600)
    ('1 s', '1 min 10 s', '3 h 2 min', '1 d 2 h')
    """
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    left = max(1, round(seconds))
    for (name, size), (lower, part) in pairwise(units):
        if left >= size:
            rest = left % size // part
            return f"{left // size} {name}" + (f" {rest} {lower}" if rest else "")
    return f"{left} s"


def _bar(total: Standing) -> RenderableType:
    """Every trial in one line, by what became of it, and what the marks mean with the numbers."""
    marks = _MARKS if out.encoding.lower().startswith("utf") else _PLAIN_MARKS
    counts = {name: total.left if name == "left" else total.counts[name] for name in marks}  # type: ignore[index]
    bar, legend = Text(), Text()
    for name, cells in _cells(counts, min(_BAR_WIDTH, out.width)).items():
        bar.append(marks[name] * cells, _STYLES.get(name, "dim"))
        if counts[name]:
            legend.append(f"{marks[name]} ", _STYLES.get(name, "dim"))
            legend.append(f"{counts[name]:,} {name}   ")
    legend.rstrip()
    return Group(bar, legend)


def _cells(counts: Mapping[str, int], width: int) -> dict[str, int]:
    """How many cells of a bar each part gets: one at least where there is something."""
    total = sum(counts.values())
    cells = {name: max(1, round(count * width / total)) if count else 0 for name, count in counts.items()}
    widest = max(cells, key=lambda name: cells[name])
    cells[widest] += width - sum(cells.values())
    return cells


def _batch_table(standing: ProjectStanding) -> Table:
    table = _table("batch", "planned", *STATES)
    for batch, each in standing.batch_sizes.items():
        table.add_row(f"{batch}", f"{each.planned:,}", *_numbers(each))
    if len(standing.batch_sizes) > 1:
        table.add_row("all", f"{standing.total.planned:,}", *_numbers(standing.total), style="bold")
    return table


def _sweep_table(standing: ProjectStanding) -> Table:
    table = _table("planned", "with a result", "running", "left")
    table.add_column("sweep", overflow="fold")
    names = Counter(sweep.name for sweep, _ in standing.sweeps)
    for sweep, each in standing.sweeps:
        numbers = (each.planned, each.results, each.counts["running"], each.left)
        # A file that was launched anew with --replan leaves two sweeps of one name.
        told_apart = f" ({sweep.sweep_id})" if names[sweep.name] > 1 else ""
        table.add_row(*(f"{number:,}" for number in numbers), Text(printable(sweep.name) + told_apart))
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _numbers(standing: Standing) -> list[Text]:
    """The counts of a row; what is nothing stands back."""
    counts = [(state, standing.counts[state]) for state in STATES]
    return [Text(f"{count:,}", style=_STYLES.get(state, "") if count else "dim") for state, count in counts]


def _sentences(seen: Seen) -> Sequence[str]:
    total, lines = seen.standing.total, []
    if total.left:
        kinds = ", ".join(f"{total.counts[state]:,} {state}" for state in LEFT if total.counts[state])
        queue = f"; {total.waiting:,} of them with an engine" if total.waiting else ""
        lines.append(f"Left: {counted(total.left, 'trial')} ({kinds}){queue}.")
    if not total.is_over:
        lines.append(_time(seen.standing))
        if total.examples_left is not None:
            lines.append(f"Examples left: {total.examples_left:,} at most.")
    else:
        lines.append("Every trial has its result.")
    if seen.unread:
        lines.append(f"Not counted: {counted(seen.unread, 'sweep')} of a definition that cannot be read.")
    if total.left and not total.counts["running"] and not total.waiting:
        lines.append("Nothing runs. Launch the same sweep files again to run what is left.")
    return lines


def _time(standing: ProjectStanding) -> str:
    total = standing.total
    if total.work_seconds_left is None:
        return "Time left: not known until trials of every batch size were timed."
    if total.seconds_left is None:
        return (
            f"Time left: about {duration(total.work_seconds_left)} one trial after the other (an estimate)."
        )
    at_once = counted(total.running_now, "trial")
    return f"Time left: about {duration(total.seconds_left)} with {at_once} at once as now (an estimate)."
