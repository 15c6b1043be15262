"""`surge-sweep status`: how a project's sweeps stand, by the tracker's word, once or for as long as they run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from surge_sweeps.cli.console import out, say
from surge_sweeps.cli.launch_options import Uri
from surge_sweeps.cli.standing_view import Seen, as_json, as_line, as_page
from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.launch.recorded import EngineQueue
from surge_sweeps.standing import project_standing
from surge_sweeps.trackers.project_trials import launched_trials

#: Seconds between two questions to the tracker, at least; and as a multiple of what an answer takes.
POLL_S = 5.0
_POLL_TIMES = 3


def status(
    project: Annotated[
        str,
        typer.Argument(
            help="MLflow experiment, W&B entity/project or entity/project/SWEEP_ID, or a folder of --tracker files."
        ),
    ],
    tracker: Annotated[
        str | None,
        typer.Option(help="Where the runs are: mlflow, wandb or files. Default: what is configured."),
    ] = None,
    uri: Uri = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", "-w", help="Go on until every trial has its result; Ctrl-C ends only the watching."
        ),
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print JSON; with --watch one line whenever something changed.")
    ] = False,
) -> None:
    """Count the trials of a project's sweeps: how each planned trial stands, by its best run.

    finished, diverged, capped: it has its result (a diverged run is one). running: a run goes on. crashed: its run
    crashed, was stopped or made room, and nobody works on it. stale: its run shows as running, and was silent for an
    hour. missing: it has no run yet; trials that train together in one process have theirs once all of them have ended.
    Each trial counts once. Left are crashed, stale and missing ones: `surge-sweep launch FILE` runs those.

    What was planned is what the tracker was told at launch, so this works on any machine; of sweeps that it was not
    told of, `surge-sweep missing FILE` counts the trials. Which of the trials left are with a cluster, waiting or at
    work, is told by the launches made from this folder. The time left is an estimate: the median time of the results at
    each batch size, with as many trials at once as run now. Examples left are those of all trials without a result, at
    most.

    --json: project, tracker, sweeps (name, sweep_id, planned, ...), planned, finished, diverged, capped, running,
    crashed, stale, missing, left, waiting (of those left, with an engine), examples_left, seconds_left,
    work_seconds_left (one after the other), batch_sizes (the same for each, and seconds_per_trial); null is not known.
    """
    queue = EngineQueue(Path.cwd())

    def look() -> Seen:
        waiting = queue.trials(project)
        if queue.problem:
            say(queue.problem)
        return ask(project, tracker, uri, waiting)

    follow(look, watch=watch, as_data=json_)


def ask(project: str, tracker: str | None, uri: str | None, waiting: Collection[str] = ()) -> Seen:
    """Ask the tracker how a project stands.

    Args:
        project, tracker, uri: see `launched_trials`. waiting: ids of trials that an engine has.

    Raises:
        SurgeError: the project is not there, or nothing was launched into it.
    """
    found = launched_trials(project, tracker, uri)
    if not found.sweeps:
        unread = f" that this version can read ({found.unread} it cannot)" if found.unread else ""
        raise SurgeError(
            f"no sweep was launched into {found.project!r}{unread}, so nothing tells what was planned.",
            "Of sweeps that you have the files of, `surge-sweep missing FILE` counts the trials.",
        )
    now_s = time.time()
    standing = project_standing(found.sweeps, found.outcomes, now_s * 1000, waiting)
    return Seen(found.tracker, found.project, standing, now_s, found.unread)


def follow(look: Callable[[], Seen], *, watch: bool, as_data: bool) -> None:
    """Show how a project stands, once, or until every trial has its result."""
    seen, wait_s = look(), POLL_S
    if not watch:
        out.print(_data(seen) if as_data else as_page(seen), soft_wrap=as_data, markup=False, highlight=False)
        return
    with _shown(as_data) as show:
        while True:
            show(seen)
            if seen.standing.total.is_over:
                return
            time.sleep(wait_s)
            asked_s = time.monotonic()
            try:
                seen = look()
            except TrackerError as error:
                # It may be back soon, and what was seen still tells something.
                seen = seen._replace(away=error.what)
            wait_s = max(POLL_S, _POLL_TIMES * (time.monotonic() - asked_s))


@contextmanager
def _shown(as_data: bool) -> Iterator[Callable[[Seen], None]]:
    """What shows a project again and again: drawn over on a terminal, else a line when something changed."""
    if out.is_terminal and not as_data:
        with Live(console=out, auto_refresh=False) as screen:
            yield lambda seen: screen.update(as_page(seen, watched=True), refresh=True)
        return
    last = ""

    def show(seen: Seen) -> None:
        nonlocal last
        # What only the clock changed is no news.
        mark = json.dumps([seen.away, *sorted(seen.standing.total.counts.items())])
        if mark == last:
            return
        last = mark
        if seen.away:
            say(f"{seen.away} It is asked again.")
        else:
            out.print(
                _data(seen) if as_data else as_line(seen), soft_wrap=True, markup=False, highlight=False
            )

    yield show


def _data(seen: Seen) -> str:
    return json.dumps(as_json(seen), allow_nan=False)
