"""The agent engine: W&B's own agents on this machine, each trial a process, on any number of machines at once.

The server hands out the cells of a registered sweep, so whoever calls first registers it and whoever calls later joins
in. What really finished is asked of the server: the exit code of an agent says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.launch.agent_crew import Crew, ServerView, Work
from surge_sweeps.launch.agent_processes import agent_environment
from surge_sweeps.launch.base import Interrupted, LaunchResult
from surge_sweeps.launch.checks import check_trials
from surge_sweeps.launch.lock import one_launch
from surge_sweeps.launch.stop import Stopped, StopRequest, stop_signals
from surge_sweeps.launch.workers import available_cores
from surge_sweeps.progress import ProgressCallback
from surge_sweeps.rectangles import follow_up
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers.trial_outcomes import TrialOutcome, trial_outcomes
from surge_sweeps.trackers.wandb.client import WandbProject, connect
from surge_sweeps.trackers.wandb.runs import stored_runs
from surge_sweeps.trackers.wandb.sweeps import (
    UNFINISHED,
    RegisteredSweep,
    handed_out,
    list_sweeps,
    logged_metrics,
    preempted_runs,
    register,
    run_states,
)


class AgentLauncher:
    """Runs trials by `wandb agent` processes on this machine; other machines may help at the same time.

    It differs from `Launcher` in that no tracker is handed to it: the agents' scripts write their runs themselves.

    Args:
        project: where the sweeps are registered, its entity named. agents: processes at a time. Default: one per core
            for the built-in trainer, one for a user's script, which may well use all cores or the one GPU itself.
    """

    def __init__(self, project: WandbProject, agents: int | None = None) -> None:
        if agents is not None and agents < 1:
            raise SurgeError(f"the number of agents is {agents}.", "It must be 1 or more.")
        self._project = project
        self._agents = agents

    def launch(self, sweeps: Sequence[Sweep], progress: ProgressCallback) -> LaunchResult:
        """Run every trial of `sweeps` that has no result in the project and runs nowhere else now.

        Raises `Interrupted` on Ctrl-C or SIGTERM and `TrackerError` when the server is away; in both cases nothing
        that ended is lost, and no process is left behind.
        """
        for sweep in sweeps:
            check_trials(sweep)
        environment = agent_environment(sweeps)
        with one_launch(), stop_signals() as stop:
            launch = _Launch(connect(), self._project, sweeps)
            try:
                work = launch.work()
                stop.check()
                if work:
                    launch.run(work, self._size(sweeps), environment, progress, stop)
            except (Stopped, KeyboardInterrupt) as error:
                raise Interrupted(
                    f"stopped. {launch.summary_if_server_answers()}",
                    "Call the same command again to run the missing trials.",
                ) from error
            return launch.result()

    def _size(self, sweeps: Sequence[Sweep]) -> int:
        return self._agents or (available_cores() if all(sweep.is_builtin for sweep in sweeps) else 1)


class _Launch:
    """One call: what was planned, how it stood before, and the agents that ran."""

    def __init__(self, api: Any, project: WandbProject, sweeps: Sequence[Sweep]) -> None:
        self._api = api
        self._project = project
        self._planned = {trial.trial_id: (sweep, trial) for sweep in sweeps for trial in sweep.trials()}
        self._preempted: frozenset[str] = frozenset()
        self._before = self._outcomes()
        self._paths: list[str] = []
        self._crew: Crew | None = None

    def _outcomes(self) -> dict[str, TrialOutcome]:
        try:
            stored = stored_runs(self._api, self._project)
        except ValueError:
            # A project that is not there yet has no runs.
            return {}
        self._preempted = preempted_runs(self._api, self._project)
        # A preempted run counts as going on for whoever reads it, but nothing runs.
        stored = [replace(run, recorded="crashed") if run.run in self._preempted else run for run in stored]
        return trial_outcomes(stored, {trial: sweep.loss for trial, (sweep, _) in self._planned.items()})

    def _is_open(self, trial: str) -> bool:
        outcome = self._before.get(trial)
        return outcome is None or not (outcome.is_result or outcome.status == "running")

    def work(self) -> list[Work]:
        """Registered sweeps that hold all open trials between them: those that can be joined, and new ones.

        Raises:
            SurgeError: a sweep that would be joined is paused.
        """
        to_do = {trial for trial in self._planned if self._is_open(trial)}
        work = self._joined(to_do) if to_do else []
        for sweep in {id(sweep): sweep for sweep, _ in self._planned.values()}.values():
            own = [
                trial for owner, trial in self._planned.values() if owner is sweep and trial.trial_id in to_do
            ]
            whole = len(own) == len(sweep.trials())
            for part in [sweep] if whole else follow_up(sweep, own):
                path = f"{self._project.path}/{register(self._project, part)}"
                work.append(Work(path, len(part.trials()), 0, part.loss))
        return work

    def _joined(self, to_do: set[str]) -> list[Work]:
        """Join unfinished sweeps all of whose remaining trials are open, and take those trials off `to_do`."""
        unfinished = [
            sweep
            for sweep in list_sweeps(self._api, self._project)
            if sweep.state in UNFINISHED and sweep.trial_ids & self._planned.keys()
        ]
        given = handed_out(self._api, self._project, unfinished)
        joined: list[Work] = []
        for sweep in unfinished:
            remaining = sweep.trial_ids - given[sweep.id]
            # A sweep that would also hand out trials that are done or taken is left alone: they would run twice.
            if not remaining or not remaining <= to_do:
                continue
            if sweep.state == "PAUSED":
                raise _paused(sweep)
            to_do -= remaining
            loss = sweep.definition.loss if sweep.definition else ""
            joined.append(Work(sweep.path, len(remaining), len(given[sweep.id]), loss))
        return joined

    def run(
        self,
        work: Sequence[Work],
        size: int,
        environment: Mapping[str, str],
        progress: ProgressCallback,
        stop: StopRequest,
    ) -> None:
        """Let agents do the work; returns when they have ended."""
        self._paths = [item.path for item in work]
        ids = [path.rpartition("/")[2] for path in self._paths]
        progress(0, sum(item.cells for item in work), "starting agents")
        with ServerView(partial(run_states, connect(), self._project, ids)) as view:
            self._crew = Crew(
                work,
                size,
                environment,
                view,
                partial(logged_metrics, self._api, self._project, ids),
                known_to_work=any(outcome.is_result for outcome in self._before.values()),
            )
            self._crew.run(progress, stop)

    def result(self) -> LaunchResult:
        """What became of the planned trials, by the server's word."""
        done_before = sum(outcome.is_result for outcome in self._before.values())
        result = LaunchResult(len(self._planned), done_before)
        after = self._outcomes() if self._crew else self._before
        ended_runs = self._crew.log_of() if self._crew else {}
        for trial in self._planned:
            if trial in self._before and self._before[trial].is_result:
                continue
            outcome = after.get(trial)
            if outcome is None:
                result.failures[trial] = self._no_run
            elif outcome.is_result:
                result.ended[outcome.status] += 1
            elif outcome.status == "running" and outcome.run in ended_runs:
                result.failures[trial] = "it was cut off (W&B shows its run as running for some minutes yet)"
            elif outcome.status == "running":
                result.running[trial] = outcome.run
            elif outcome.run in self._preempted:
                result.failures[trial] = "it was preempted, and the next agent goes on with it"
            elif outcome.run in ended_runs:
                agent = ended_runs[outcome.run]
                result.failures[trial] = f"{outcome.problem or 'its script failed'}, see {agent.log}"
            else:
                result.failures[trial] = outcome.problem or f"its run {outcome.run} {outcome.status}"
        return result

    @cached_property
    def _no_run(self) -> str:
        """Why there is no run of a trial that agents should have done."""
        known = {sweep.path for sweep in list_sweeps(self._api, self._project)}
        gone = [path for path in self._paths if path not in known]
        if gone:
            return f"the sweep {gone[0]} was deleted on W&B"
        deaths = self._crew.deaths() if self._crew else ""
        return deaths or "no run of it reached W&B"

    def summary_if_server_answers(self) -> str:
        """One sentence on what was done, or on why that cannot be told."""
        try:
            return f"{self.result().summary()}."
        except TrackerError as error:
            return f"What was done cannot be told: {error.what}"


def _paused(sweep: RegisteredSweep) -> SurgeError:
    return SurgeError(
        f"the sweep {sweep.path} is paused, so its agents would wait for ever.",
        f"Resume it with: wandb sweep --resume {sweep.path}   or end it with --stop, then call again.",
    )
