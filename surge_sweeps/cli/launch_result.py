"""What a launch tells when it returns."""

from __future__ import annotations

import shlex
from collections import Counter

from surge_sweeps.cli.console import out
from surge_sweeps.counting import counted
from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.base import LaunchResult
from surge_sweeps.trackers import locate
from surge_sweeps.trackers.mlflow.uri import display_uri

_REASONS = 5


def tell_result(result: LaunchResult, quiet: bool) -> None:
    """One line on the trials, then why some have no result, and who still has others."""
    _print(result.summary())
    for reason, count in Counter(result.failures.values()).most_common(_REASONS):
        _print(f"  {counted(count, 'trial')}: {reason}")
    if result.running:
        _tell_running(result)
    if result.missing and not quiet:
        out.print("Call the same command again to run the missing trials.")


def _tell_running(result: LaunchResult) -> None:
    if result.launches:
        for launch_id, engine in result.launches.items():
            _print(
                f"  {engine} has the launch {launch_id}: surge-sweep launches, cancel and logs tell of it."
            )
        return
    runs = ", ".join(sorted(result.running.values())[:_REASONS])
    _print(
        f"  W&B shows as running: {runs}. A run that was killed is shown so for some minutes; then call again."
    )


def tell_next(name: str, tracker: str, uri: str | None, loss: str) -> None:
    """The command that reads the results."""
    # What is printed may end in a log that others read.
    shown = display_uri(uri) if uri else None
    command = ["surge-report", name, *(["--uri", shown] if shown else [])]
    command += [] if uri or name == "./wandb" or _is_found(name, tracker) else ["--tracker", tracker]
    command += ["--loss-column", loss] if loss != "eval/loss" else []
    _print(f"Next: {shlex.join(command)}")
    if shown != uri:
        out.print("  --uri is shown without user, password and options: give it as you gave it here.")


def _is_found(name: str, tracker: str) -> bool:
    """Whether the name alone tells `surge-report` where the project is."""
    try:
        return locate(name).kind == tracker
    except SurgeError:
        return False


def _print(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
