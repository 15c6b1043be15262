"""What a launch tells when it returns."""

from __future__ import annotations

import shlex
from collections import Counter

from surge_sweeps.cli.console import tell
from surge_sweeps.counting import counted
from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.base import LaunchResult
from surge_sweeps.trackers import locate
from surge_sweeps.trackers.mlflow.uri import display_uri

_REASONS = 5


def tell_result(result: LaunchResult, quiet: bool) -> None:
    """One line on the trials, then why some have no result, and who still has others."""
    tell(result.summary())
    for reason, count in Counter(result.failures.values()).most_common(_REASONS):
        tell(f"  {counted(count, 'trial')}: {reason}")
    if result.running:
        _tell_running(result)
    if result.missing and not quiet:
        tell("Call the same command again to run the missing trials.")


def _tell_running(result: LaunchResult) -> None:
    for launch_id, engine in result.launches.items():
        tell(f"  {engine} has the launch {launch_id}: surge-sweep launches, cancel and logs tell of it.")
    if not result.launches:
        runs = ", ".join(sorted(result.running.values())[:_REASONS])
        tell(
            f"  at work elsewhere, by what the tracker shows: {runs}. A run that was killed is shown so for some"
            " minutes; then call again."
        )


def tell_next(name: str, tracker: str, uri: str | None, loss: str, *, is_running: bool = False) -> None:
    """The command that reads the results, or watches them come."""
    # What is printed may end in a log that others read.
    shown = display_uri(uri) if uri else None
    # A folder is no experiment of the same name.
    named = f"./{name}" if tracker == "files" and not name.startswith(("/", ".")) else name
    where = [named, *(["--uri", shown] if shown else [])]
    where += [] if uri or name == "./wandb" or _is_found(named, tracker) else ["--tracker", tracker]
    if is_running:
        tell(f"Next: {shlex.join(['surge-sweep', 'status', *where, '--watch'])}")
    else:
        loss_column = ["--loss-column", loss] if loss != "eval/loss" else []
        tell(f"Next: {shlex.join(['surge-report', *where, *loss_column])}")
    if shown != uri:
        tell("  --uri is shown without user, password and options: give it as you gave it here.")


def _is_found(name: str, tracker: str) -> bool:
    """Whether the name alone tells `surge-report` where the project is."""
    try:
        return locate(name).kind == tracker
    except SurgeError:
        return False
