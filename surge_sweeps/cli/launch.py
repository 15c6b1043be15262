"""`surge-sweep launch`: run what has no result yet, on this machine."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from surge_sweeps.cli.console import out, progress_bar, say
from surge_sweeps.cli.new import describe_size
from surge_sweeps.counting import counted
from surge_sweeps.errors import SurgeError, TrackerError, UnknownNameError
from surge_sweeps.launch.base import LaunchResult
from surge_sweeps.launch.local import LocalLauncher
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers import locate, open_tracker
from surge_sweeps.trackers.base import Tracker as TrackerStore
from surge_sweeps.trackers.mlflow.uri import display_uri

ENGINES = ("local",)

Tracker = Annotated[str, typer.Option(help="Where runs are logged: mlflow or wandb.")]
Uri = Annotated[
    str | None,
    typer.Option(
        "--uri",
        help="MLflow tracking URI. Default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in this folder.",
    ),
]
Agents = Annotated[
    int | None,
    typer.Option(
        help="Worker processes; on W&B, agents. Default: one per core for built-in workloads, 1 for your own script."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no chatter.")]


def launch(
    files: Annotated[list[Path], typer.Argument(help="Sweep files.")],
    project: Annotated[
        str | None,
        typer.Option(
            help="MLflow experiment, or W&B entity/project, to log into. Default: the first sweep's name; on W&B"
            " WANDB_ENTITY and WANDB_PROJECT come before it."
        ),
    ] = None,
    tracker: Tracker = "mlflow",
    uri: Uri = None,
    on: Annotated[str, typer.Option("--on", help="Engine: local.")] = "local",
    agents: Agents = None,
    packed: Annotated[
        bool,
        typer.Option(
            "--packed",
            help="W&B, built-in workloads: train many trials together in each process, and log one run a trial,"
            " without agents: tens of times the trials per second.",
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Run every trial of the sweeps that has no result yet; call it again to resume.

    On W&B, the missing trials are registered as a sweep, or an unfinished sweep of them is joined, and real
    `wandb agent` processes work it off, one process a trial. Any number of machines may help: call the same command
    there, or the `wandb agent` line that is printed. A run counts by its trial id or its sweep, and where that sweep is
    gone by its config. Ctrl-C, SIGTERM and a closed terminal end the agents and their scripts, on Linux SIGKILL does
    too. With --packed this machine alone does the trials, without a W&B sweep.
    """
    if on not in ENGINES:
        raise UnknownNameError("engine", on, ENGINES)
    sweeps = [Sweep.read(file) for file in files]
    name = project or sweeps[0].name
    locate(name, tracker, uri)
    if packed and tracker != "wandb":
        raise typer.BadParameter("--packed goes with --tracker wandb; on MLflow trials are always packed")
    if tracker == "wandb":
        from surge_sweeps.trackers.wandb import session

        try:
            name, result = _launch_on_wandb(sweeps, project, agents, packed=packed, quiet=quiet)
        finally:
            session.end()
    else:
        result = run_all(sweeps, open_tracker(tracker, name, uri), agents, quiet)
    if not quiet and (result.already_done or result.ended):
        _tell_next(name, tracker, uri, sweeps[0].loss)
    if result.missing or result.running:
        raise typer.Exit(1)


def run_all(sweeps: Sequence[Sweep], store: TrackerStore, agents: int | None, quiet: bool) -> LaunchResult:
    """Launch on this machine with a progress bar and tell what became of the trials; closes the store."""
    _tell_sizes(sweeps, quiet)
    try:
        with progress_bar("training", quiet=quiet, lines=True) as progress:
            result = LocalLauncher(agents).launch(sweeps, store, progress)
    except BaseException:
        # The first error is the one to tell; what stays open in the store, the next launch closes.
        store.give_up_when(lambda: True)
        with suppress(TrackerError):
            store.close()
        raise
    store.close()
    _tell(result, quiet)
    return result


def _launch_on_wandb(
    sweeps: Sequence[Sweep], project: str | None, agents: int | None, *, packed: bool, quiet: bool
) -> tuple[str, LaunchResult]:
    """Launch, and name the project whole: with its entity, or offline the folder."""
    from surge_sweeps.launch.agents import AgentLauncher
    from surge_sweeps.trackers.wandb.client import connect, with_entity
    from surge_sweeps.trackers.wandb.open_run import is_offline
    from surge_sweeps.trackers.wandb.sweeps import home_of

    home = home_of(project, sweeps[0])
    if packed:
        others = [sweep.name for sweep in sweeps if not sweep.is_builtin]
        if others:
            raise SurgeError(
                f"--packed trains built-in workloads, and the sweep {others[0]!r} runs a script of your own.",
                "Leave --packed away: agents run scripts.",
            )
        result = run_all(sweeps, open_tracker("wandb", home.path), agents, quiet)
        return "./wandb" if is_offline() else with_entity(connect(), home).path, result
    if is_offline():
        raise SurgeError(
            "W&B is set to offline, and agents ask the server for trials.",
            "Unset WANDB_MODE; --packed trains built-in workloads offline.",
        )
    home = with_entity(connect(), home)
    _tell_sizes(sweeps, quiet)
    with progress_bar("agents", quiet=quiet, lines=True) as progress:
        result = AgentLauncher(home, agents, partial(say, quiet=quiet)).launch(sweeps, progress)
    _tell(result, quiet)
    return home.path, result


def _tell_sizes(sweeps: Sequence[Sweep], quiet: bool) -> None:
    for sweep in sweeps:
        say(f"{sweep.name}: {describe_size(sweep)}", quiet=quiet)


def _tell(result: LaunchResult, quiet: bool) -> None:
    out.print(result.summary(), highlight=False)
    reasons = Counter(result.failures.values())
    for reason, count in reasons.most_common(5):
        out.print(f"  {counted(count, 'trial')}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if result.running:
        runs = ", ".join(sorted(result.running.values())[:5])
        text = f"  W&B shows as running: {runs}. A run that was killed is shown so for some minutes; then call again."
        out.print(text, markup=False, highlight=False, soft_wrap=True)
    if result.missing and not quiet:
        out.print("Call the same command again to run the missing trials.")


def _tell_next(name: str, tracker: str, uri: str | None, loss: str) -> None:
    # What is printed may end in a log that others read.
    shown = display_uri(uri) if uri else None
    command = ["surge-report", name, *(["--uri", shown] if shown else [])]
    command += [] if uri or name == "./wandb" or _is_found(name, tracker) else ["--tracker", tracker]
    command += ["--loss-column", loss] if loss != "eval/loss" else []
    out.print(f"Next: {shlex.join(command)}", markup=False, highlight=False, soft_wrap=True)
    if shown != uri:
        out.print("  --uri is shown without user, password and options: give it as you gave it here.")


def _is_found(name: str, tracker: str) -> bool:
    """Whether the name alone tells `surge-report` where the project is."""
    try:
        return locate(name).kind == tracker
    except SurgeError:
        return False
