"""`surge-sweep launch`: run what has no result yet, on this machine or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import typer

from surge_sweeps.cli import launch_options as options
from surge_sweeps.cli.console import progress_bar, say, tell
from surge_sweeps.cli.launch_preflight import Preflight, check_file
from surge_sweeps.cli.launch_result import tell_next, tell_result
from surge_sweeps.cli.launch_table import launch_table
from surge_sweeps.cli.new import describe_size
from surge_sweeps.cli.settings import as_kinds, read_settings
from surge_sweeps.errors import SurgeError, TrackerError, UnknownNameError
from surge_sweeps.launch.base import Launcher, LaunchResult
from surge_sweeps.launch.checks import no_check
from surge_sweeps.launch.driver import launch_sweeps, preview
from surge_sweeps.launch.engines import ENGINES, make_launcher, make_options
from surge_sweeps.launch.frozen import freeze, read_frozen
from surge_sweeps.launch.local import LocalLauncher
from surge_sweeps.launch.plan import Resources
from surge_sweeps.launch.target import Target
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers import locate, open_tracker
from surge_sweeps.trackers.base import Tracker


def launch(
    files: options.Files,
    project: options.Project = None,
    tracker: options.Tracker = "mlflow",
    uri: options.Uri = None,
    on: options.On = "local",
    agents: options.Agents = None,
    packed: options.Packed = False,
    set_: options.Set = None,
    settings: options.Settings = None,
    gpus_per_task: options.GpusPerTask = 0,
    cpus_per_task: options.CpusPerTask = None,
    memory_gb: options.MemoryGb = None,
    time_limit_minutes: options.TimeLimit = None,
    processes_per_node: options.ProcessesPerNode = 1,
    nodes: options.Nodes = 1,
    micro_batch_size: options.MicroBatchSize = None,
    wait: options.Wait = False,
    dry_run: options.DryRun = False,
    replan: options.Replan = False,
    quiet: options.Quiet = False,
) -> None:
    """Run every trial of the sweeps that has no result yet; call it again to resume.

    A trial that has a result, or that a cluster still has in its hands, is never run again. Ctrl-C, SIGTERM and a
    closed terminal end what runs on this machine; what was handed to a cluster goes on, and `surge-sweep cancel` ends
    it. A sweep file that was changed since it was launched goes on as it was; what differs is shown.

    On W&B, the missing trials are registered as a sweep, or an unfinished sweep of them is joined, and real
    `wandb agent` processes work it off, one process a trial, here or one a task of a cluster. Any number of machines
    may help: call the same command there, or the `wandb agent` line that is printed. A run counts by its trial id or
    its sweep, and where that sweep is gone by its config.
    """
    if on not in ENGINES:
        raise UnknownNameError("engine", on, ENGINES)
    if agents is not None and on != "local":
        raise typer.BadParameter("--agents is for --on local; a cluster takes --set at_most=N")
    chosen = make_options(on, as_kinds(on, read_settings(set_ or (), settings)))
    resources = Resources(
        gpus_per_task,
        cpus_per_task,
        memory_gb,
        time_limit_minutes,
        processes_per_node,
        nodes,
        micro_batch_size,
    )
    # A pack is one process on the processor.
    is_of_its_own = bool(
        resources.is_distributed or micro_batch_size or gpus_per_task or (on == "local" and chosen.gpus)
    )
    if packed and is_of_its_own:
        raise typer.BadParameter(
            "--packed trains many trials in one process, without GPUs, several processes or micro-batches"
        )
    name = project or Sweep.read(files[0]).name
    locate(name, tracker, uri)
    target = Target.of(name, tracker, uri)
    sweeps = _sweeps(files, target, anew=replan)
    request = _Request(
        sweeps, target, on, chosen, agents, resources, packed=packed, wait=wait, dry_run=dry_run, quiet=quiet
    )
    if tracker == "wandb":
        from surge_sweeps.trackers.wandb import session

        try:
            name, result = request.on_wandb(project)
        finally:
            session.end()
    else:
        store = open_tracker(tracker, name, uri)
        result = request.run(target, store, packed=packed or (on == "local" and not is_of_its_own))
    if result is None:
        return
    if not quiet and (result.already_done or result.ended or result.running):
        tell_next(name, tracker, uri, request.loss, is_running=bool(result.running))
    is_left = result.running and (wait or on == "local")
    if result.missing or is_left:
        raise typer.Exit(1)


class _Request:
    """What was asked for, once it was read."""

    def __init__(
        self,
        sweeps: Mapping[Path, Sweep],
        target: Target,
        engine: str,
        chosen: Any,
        agents: int | None,
        resources: Resources,
        *,
        packed: bool,
        wait: bool,
        dry_run: bool,
        quiet: bool,
    ) -> None:
        self._files = sweeps
        self._sweeps = list(sweeps.values())
        self._target = target
        self._engine = engine
        self._chosen = chosen
        self._agents = agents
        self._resources = resources
        self._packed = packed
        self._wait = wait
        self._dry_run = dry_run
        self._quiet = quiet
        self._preflight = Preflight(sweeps, is_here=engine == "local", quiet=quiet)

    @property
    def loss(self) -> str:
        """The metric that the sweeps are about."""
        return self._sweeps[0].loss

    def run(self, target: Target, store: Tracker, *, packed: bool) -> LaunchResult | None:
        """Launch into an open store, which is closed; None for a dry run."""
        launcher = make_launcher(self._engine, self._chosen, store, self._agents)
        if self._dry_run:
            text = preview(self._sweeps, target, store, launcher, packed=packed, resources=self._resources)
            say("Dry run: nothing is submitted or written.")
            tell(text)
            return None
        return run_all(
            self._sweeps,
            target,
            store,
            launcher,
            packed=packed,
            resources=self._resources,
            wait=self._wait or not launcher.outlives_launch,
            on_submitted=self._freeze,
            preflight=self._preflight,
            quiet=self._quiet,
        )

    def on_wandb(self, project: str | None) -> tuple[str, LaunchResult | None]:
        """Launch, and name the project whole: with its entity, or offline the folder."""
        from surge_sweeps.launch.agents import AgentLauncher
        from surge_sweeps.launch.engine_agents import AgentEngine
        from surge_sweeps.trackers.wandb.client import connect, with_entity
        from surge_sweeps.trackers.wandb.open_run import is_offline
        from surge_sweeps.trackers.wandb.sweeps import home_of

        home = home_of(project, self._sweeps[0])
        if self._packed:
            self._refuse_packing()
            result = self.run(
                replace(self._target, project=home.path), open_tracker("wandb", home.path), packed=True
            )
            return "./wandb" if is_offline() else with_entity(connect(), home).path, result
        if is_offline():
            raise SurgeError(
                "W&B is set to offline, and agents ask the server for trials.",
                "Unset WANDB_MODE; --packed trains built-in workloads offline.",
            )
        home = with_entity(connect(), home)
        engine = None
        if self._engine != "local":
            launcher = make_launcher(self._engine, self._chosen, open_tracker("wandb", home.path))
            wait = self._wait or not launcher.outlives_launch
            target = replace(self._target, project=home.path)
            engine = AgentEngine(launcher, target, self._resources, wait=wait)
        self._refuse_what_agents_do_not_take()
        agents = AgentLauncher(
            home,
            self._agents,
            partial(say, quiet=self._quiet),
            engine,
            check=self._preflight,
            on_checked=self._freeze,
        )
        if self._dry_run:
            say("Dry run: nothing is registered, submitted or written.")
            tell(agents.preview(self._sweeps))
            return home.path, None
        _tell_sizes(self._sweeps, self._quiet)
        with progress_bar("agents", quiet=self._quiet, lines=True) as progress:
            self._preflight.progress = progress
            result = agents.launch(self._sweeps, progress)
        tell_result(result, self._quiet)
        return home.path, result

    def _refuse_what_agents_do_not_take(self) -> None:
        asked = self._resources
        if asked.is_distributed or asked.micro_batch_size:
            raise SurgeError(
                "a W&B agent starts the script by itself, as one process.",
                "Put torchrun, or a micro-batch size, into the 'command' of the sweep; or log to MLflow or files.",
            )
        if self._engine == "local" and (asked != Resources() or self._chosen != type(self._chosen)()):
            raise SurgeError(
                "agents on this machine share what it has; they are handed no GPUs, cores or memory.",
                "Leave these options out; CUDA_VISIBLE_DEVICES chooses GPUs for the whole launch.",
            )

    def _freeze(self) -> None:
        """From now on the files stand for these sweeps: it is known that their trials can run."""
        for file, sweep in self._files.items():
            freeze(file, self._target, sweep)

    def _refuse_packing(self) -> None:
        others = [sweep.name for sweep in self._sweeps if not sweep.is_builtin]
        if others:
            raise SurgeError(
                f"--packed trains built-in workloads, and the sweep {others[0]!r} runs a script of your own.",
                "Leave --packed away: agents run scripts.",
            )


def run_all(
    sweeps: Sequence[Sweep],
    target: Target,
    store: Tracker,
    launcher: Launcher,
    *,
    packed: bool,
    resources: Resources | None = None,
    wait: bool = True,
    on_submitted: Callable[[], object] = lambda: None,
    preflight: Preflight | None = None,
    quiet: bool = False,
) -> LaunchResult:
    """Launch with a live table and tell what became of the trials; closes the store."""
    _tell_sizes(sweeps, quiet)
    try:
        # What a cluster's tasks ended with, only the tracker knows.
        known = partial(getattr, launcher, "results") if isinstance(launcher, LocalLauncher) else dict
        doing = partial(getattr, preflight, "doing", "starting")
        with launch_table(quiet=quiet, results=known, doing=doing) as show:
            result = launch_sweeps(
                sweeps,
                target,
                store,
                launcher,
                packed=packed,
                resources=resources,
                wait=wait,
                on_status=show,
                on_submitted=on_submitted,
                check=preflight or no_check,
            )
    except BaseException:
        # The first error is the one to tell; what stays open in the store, the next launch closes.
        store.give_up_when(lambda: True)
        with suppress(TrackerError):
            store.close()
        raise
    store.close()
    tell_result(result, quiet)
    return result


def _sweeps(files: Sequence[Path], target: Target, *, anew: bool) -> dict[Path, Sweep]:
    """The sweeps of the files as they were first launched."""
    sweeps: dict[Path, Sweep] = {}
    for file in files:
        frozen = read_frozen(file, target, anew=anew)
        if frozen.changes:
            say(
                f"{file} was changed since it was launched ({'; '.join(frozen.changes)}). It goes on as it was;"
                " --replan takes it as it is now."
            )
        check_file(file, frozen.sweep)
        sweeps[file] = frozen.sweep
    return sweeps


def _tell_sizes(sweeps: Sequence[Sweep], quiet: bool) -> None:
    for sweep in sweeps:
        say(f"{sweep.name}: {describe_size(sweep)}", quiet=quiet)
