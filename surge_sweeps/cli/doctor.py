"""`surge-sweep doctor`: what is wrong with an MLflow store, said in full and mended where the user agrees."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import typer
from filelock import FileLock, Timeout
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from surge_sweeps.cli.console import err, out, progress_bar, say
from surge_sweeps.cli.launch_options import Quiet, Uri
from surge_sweeps.counting import counted
from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.lock import LOCK_FILE
from surge_sweeps.trackers.mlflow.doctor.examine import examine
from surge_sweeps.trackers.mlflow.doctor.finding import Examination, Finding
from surge_sweeps.trackers.mlflow.uri import resolve_uri

_ITEMS_SHOWN = 5
_INDENT = 3

State = Literal["left", "mended", "failed"]


@dataclass(frozen=True)
class _Outcome:
    """What became of a finding, and in words what was done or why it could not be."""

    finding: Finding
    state: State
    said: str = ""


def doctor(
    project: Annotated[
        str | None, typer.Argument(help="MLflow experiment whose runs to look at. Default: all of the store.")
    ] = None,
    uri: Uri = None,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", help="Mend everything that is wrong, without asking; what is only a hint stays."
        ),
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the findings as JSON; asks nothing.")] = False,
    quiet: Quiet = False,
) -> None:
    """Look at an MLflow store, say what is wrong, and mend what you agree to.

    Finds runs that a kill left open, missing statistics and indexes, a schema of an older MLflow, old servers, servers
    that refuse the host name, points without steps and more. Only looks until you agree, finding by finding; without
    a terminal and without --yes it never mends. Exit code: 0 nothing is wrong any more, 1 something is left.
    """
    store = resolve_uri(uri)
    say("Looking ...", quiet=quiet or json_)
    found = examine(store, project, is_launching=_is_launching())
    asks = not yes and not json_ and sys.stdin.isatty() and err.is_terminal
    if not json_:
        _print_head(found)
    outcomes: list[_Outcome] = []
    for number, finding in enumerate(found.findings, start=1):
        if not json_:
            _print_finding(number, finding)
        outcome = _treat(finding, agreed=yes and finding.is_fault, asks=asks, quiet=quiet or json_)
        if not json_:
            _print_outcome(outcome)
        outcomes.append(outcome)
    left = [item for item in outcomes if item.finding.is_fault and item.state != "mended"]
    if json_:
        out.print(json.dumps(_as_json(found, outcomes)), soft_wrap=True, markup=False, highlight=False)
    else:
        _print_end(outcomes, left, asked=asks or yes)
    if left:
        raise typer.Exit(1)


def _treat(finding: Finding, *, agreed: bool, asks: bool, quiet: bool) -> _Outcome:
    if finding.mend is None:
        return _Outcome(finding, "left")
    if not agreed:
        if not asks:
            return _Outcome(finding, "left")
        if not typer.confirm("   Mend it?", default=False, err=True):
            return _Outcome(finding, "left")
    try:
        with progress_bar("mending", quiet=quiet, lines=True) as progress:
            return _Outcome(finding, "mended", finding.mend(progress))
    except SurgeError as error:
        # The others may still be mended.
        return _Outcome(finding, "failed", str(error))


def _is_launching() -> bool:
    """Whether a launch holds this folder's lock; it is not made for that."""
    if not LOCK_FILE.exists():
        return False
    lock = FileLock(LOCK_FILE)
    try:
        with lock.acquire(timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _print_head(found: Examination) -> None:
    points = f", about {counted(found.points, 'point')}" if found.points is not None else ""
    runs, experiments = counted(found.runs, "run"), counted(found.experiments, "experiment")
    out.print(f"{escape(found.store)}: {runs} in {experiments}{points}", highlight=False, soft_wrap=True)


def _print_finding(number: int, finding: Finding) -> None:
    mark = "" if finding.is_fault else "[dim]hint:[/] "
    out.print()
    heading = Table.grid(padding=(0, 1, 0, 0))
    heading.add_row(f"[bold]{number}.[/]", f"{mark}[bold]{escape(finding.what)}[/]")
    out.print(heading, highlight=False)
    _wrap(escape(finding.meaning))
    for item in finding.items[:_ITEMS_SHOWN]:
        out.print(f"   - {item}", markup=False, highlight=False, soft_wrap=True)
    if len(finding.items) > _ITEMS_SHOWN:
        out.print(f"   - and {len(finding.items) - _ITEMS_SHOWN:,} more (--json names all)", highlight=False)
    _wrap(f"[cyan]{'To mend' if finding.mend else 'What to do'}:[/] {escape(finding.remedy)}")


def _wrap(text: str) -> None:
    out.print(Padding(text, (0, 0, 0, _INDENT), expand=False), highlight=False)


def _print_outcome(outcome: _Outcome) -> None:
    if outcome.state == "mended":
        _wrap(f"[green]Mended:[/] {escape(outcome.said)}.")
    elif outcome.state == "failed":
        _wrap(f"[bold red]Not mended:[/] {escape(outcome.said)}")


def _print_end(outcomes: list[_Outcome], left: list[_Outcome], *, asked: bool) -> None:
    out.print()
    if not any(item.finding.is_fault for item in outcomes):
        out.print("Nothing is wrong.", highlight=False)
        return
    mended = sum(item.state == "mended" for item in outcomes)
    out.print(f"{mended:,} mended, {len(left):,} left.", highlight=False)
    if not asked and any(item.finding.mend for item in left):
        say("Nothing was changed: call it on a terminal to be asked, or with --yes.")


def _as_json(found: Examination, outcomes: list[_Outcome]) -> dict[str, object]:
    return {
        "store": found.store,
        "runs": found.runs,
        "experiments": found.experiments,
        "points": found.points,
        "findings": [
            {
                "code": item.finding.code,
                "is_fault": item.finding.is_fault,
                "what": item.finding.what,
                "meaning": item.finding.meaning,
                "remedy": item.finding.remedy,
                "items": list(item.finding.items),
                "can_mend": item.finding.mend is not None,
                "state": item.state,
                "said": item.said,
            }
            for item in outcomes
        ],
    }
