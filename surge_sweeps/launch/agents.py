"""The agent engine: W&B's own agents on this machine, each trial a process, on any number of machines at once.

The server hands out the cells of a registered sweep, so whoever calls first registers it and whoever calls later joins
in. What really finished is asked of the server: the exit code of an agent says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.launch.agent_crew import Crew, ServerView
from surge_sweeps.launch.agent_processes import AgentProcess, agent_environment
from surge_sweeps.launch.base import Interrupted, LaunchResult
from surge_sweeps.launch.checks import Check, check_trials, no_check
from surge_sweeps.launch.claims import Claims, Work, described
from surge_sweeps.launch.engine_agents import AgentEngine, EngineAgents
from surge_sweeps.launch.lock import one_launch
from surge_sweeps.launch.slots import available_cores
from surge_sweeps.launch.stop import Stopped, StopRequest, stop_signals
from surge_sweeps.progress import ProgressCallback
from surge_sweeps.sweep import Sweep, Trial
from surge_sweeps.trackers.planned_trials import PlannedTrial
from surge_sweeps.trackers.trial_outcomes import TrialOutcome
from surge_sweeps.trackers.wandb.client import WandbProject, connect
from surge_sweeps.trackers.wandb.planned import planned_outcomes
from surge_sweeps.trackers.wandb.sweep_runs import logged_metrics, run_states
from surge_sweeps.trackers.wandb.sweeps import agent_heartbeats, list_sweeps

#: Agents are heard of every 5 s; one that is silent for this long is gone.
HEARTBEAT_WAIT_SECONDS = 12.0

_CALL_AGAIN = "Call the same command again to run the missing trials."


class AgentLauncher:
    """Runs trials by `wandb agent` processes on this machine; other machines may help at the same time.

    It differs from `Launcher` in that no tracker is handed to it: the agents' scripts write their runs themselves.

    Args:
        project: where the sweeps are registered, its entity named. agents: processes at a time. Default: one per core
            for the built-in trainer, one for a user's script, which may well use all cores or the one GPU itself.
        tell: is handed lines for the user: the sweeps' addresses, and how other machines may help.
        engine: starts the agents, one a cell; None: this process does.
        check: of each sweep's trials that are to be done, before anything is registered; it may raise.
        on_checked: called once they may be.
    """

    def __init__(
        self,
        project: WandbProject,
        agents: int | None = None,
        tell: Callable[[str], object] = lambda line: None,
        engine: AgentEngine | None = None,
        *,
        check: Check = no_check,
        on_checked: Callable[[], object] = lambda: None,
    ) -> None:
        if agents is not None and agents < 1:
            raise SurgeError(f"the number of agents is {agents}.", "It must be 1 or more.")
        self._project = project
        self._agents = agents
        self._tell = tell
        self._engine = engine
        self._check = check
        self._on_checked = on_checked

    def launch(self, sweeps: Sequence[Sweep], progress: ProgressCallback) -> LaunchResult:
        """Run every trial of `sweeps` that has no result in the project and runs nowhere else now.

        Raises `Interrupted` on Ctrl-C, SIGTERM or SIGHUP and `TrackerError` when the server is away; in both cases
        nothing that ended is lost, and no process is left behind. On Linux none is left either where this process is
        killed: its agents then end, and their scripts are told to.
        """
        for sweep in sweeps:
            check_trials(sweep)
        with one_launch(), stop_signals() as stop:
            launch = self._launch(sweeps)
            try:
                for sweep, trials in launch.to_do():
                    self._check(sweep, trials, stop)
                stop.check()
                self._on_checked()
                launch.run(progress, stop)
                result = launch.result()
            except (Stopped, KeyboardInterrupt) as error:
                raise Interrupted(f"stopped. {launch.summary_if_server_answers()}", _CALL_AGAIN) from error
            except TrackerError as error:
                # A signal that ends this may have ended W&B's own process too.
                if not stop.is_requested:
                    raise
                raise Interrupted(
                    f"stopped; what was done cannot be told: {error.what}", _CALL_AGAIN
                ) from error
        if result.planned > result.already_done:
            # What the bar showed last was asked some seconds before the end.
            progress(
                sum(result.ended.values()), result.planned - result.already_done, "all agents have ended"
            )
        return result

    def preview(self, sweeps: Sequence[Sweep]) -> str:
        """What `launch` would start now, as text; nothing is registered, written or started."""
        for sweep in sweeps:
            check_trials(sweep)
        launch = self._launch(sweeps)
        cells = launch.count_open()
        if not cells:
            return "Nothing would be started: every trial has a result, or runs."
        work = Work(f"{self._project.path}/SWEEP_ID", cells, 0, sweeps[0].loss)
        if self._engine is None:
            count = min(cells, self._size(sweeps))
            return f"{count} at a time, for {cells} trials: wandb agent --forward-signals {work.path}"
        return self._engine.describe([work], sweeps)

    def _launch(self, sweeps: Sequence[Sweep]) -> _Launch:
        size, environment = self._size(sweeps), agent_environment(sweeps)
        return _Launch(connect(), self._project, sweeps, environment, size, self._tell, self._engine)

    def _size(self, sweeps: Sequence[Sweep]) -> int:
        return self._agents or (available_cores() if all(sweep.is_builtin for sweep in sweeps) else 1)


class _Launch:
    """One call: what was planned, how it stood before, and the agents that ran."""

    def __init__(
        self,
        api: Any,
        project: WandbProject,
        sweeps: Sequence[Sweep],
        environment: Mapping[str, str],
        size: int,
        tell: Callable[[str], object],
        engine: AgentEngine | None,
    ) -> None:
        self._api = api
        self._project = project
        self._environment = environment
        self._size = size
        self._say = tell
        self._engine = engine
        self._sweeps = list(sweeps)
        self._planned = {trial.trial_id: (sweep, trial) for sweep in sweeps for trial in sweep.trials()}
        self._before = self._outcomes()
        self._claims = Claims(api, project, self._planned, self._still_open)
        self._work: list[Work] = []
        self._crews: list[Crew | EngineAgents] = []
        self._has_helpers = False

    def _outcomes(self) -> dict[str, TrialOutcome]:
        planned = {trial: PlannedTrial(own, sweep.loss) for trial, (sweep, own) in self._planned.items()}
        try:
            return planned_outcomes(self._api, self._project, planned)
        except ValueError:
            # A project that is not there yet has no runs.
            return {}

    def count_open(self) -> int:
        """Trials that have no result and that nobody works on."""
        return len(self._open())

    def to_do(self) -> list[tuple[Sweep, list[Trial]]]:
        """Each sweep with its trials of that kind, if there are any."""
        left = self._open()
        found = [
            (sweep, [trial for trial in sweep.trials() if trial.trial_id in left]) for sweep in self._sweeps
        ]
        return [(sweep, trials) for sweep, trials in found if trials]

    def _still_open(self) -> set[str]:
        self._before = self._outcomes()
        return self._open()

    def _open(self) -> set[str]:
        found = {trial: self._before.get(trial) for trial in self._planned}
        return {
            trial
            for trial, outcome in found.items()
            if outcome is None or not (outcome.is_result or outcome.status == "running")
        }

    def run(self, progress: ProgressCallback, stop: StopRequest) -> None:
        """Let agents do what is to do; returns when they have ended.

        Raises:
            Stopped: the user asked for it. SurgeError: a sweep is paused, or the script can never work.
            TrackerError: the server is away or refuses.
        """
        # Asked again: data may have been made ready for minutes, while another machine began.
        work = self._claims.claim(self._still_open())
        stop.check()
        if work:
            self._let_agents(work, progress, stop)
        if lost := self._never_handed_out():
            self._let_agents(self._claims.register(lost), progress, stop)

    def _let_agents(self, work: Sequence[Work], progress: ProgressCallback, stop: StopRequest) -> None:
        self._work += work
        for line in described(work):
            self._say(line)
        if self._engine is not None:
            agents = EngineAgents(self._engine, work, self._sweeps)
            self._crews.append(agents)
            agents.run(progress, stop)
            return
        ids = [item.id for item in work]
        progress(0, sum(item.cells for item in work), "starting agents")
        with ServerView(partial(run_states, connect(), self._project, ids)) as view:
            crew = Crew(
                work,
                self._size,
                self._environment,
                view,
                partial(logged_metrics, self._api, self._project, ids),
                known_to_work=any(outcome.is_result for outcome in self._before.values()),
            )
            self._crews.append(crew)
            crew.run(progress, stop)

    def _never_handed_out(self) -> set[str]:
        """Trials of joined sweeps that were handed out to an agent that has ended, and that left no run to go on with.

        Empty where agents elsewhere still work on such a sweep: one of them may just have begun.
        """
        joined = [work for work in self._work if work.is_joined]
        if not joined or self._deaths() or self._launches():
            return set()
        known = {sweep.path for sweep in list_sweeps(self._api, self._project)}
        after, tried = self._outcomes(), self._agents_of_runs()
        lost = {
            work: {
                trial
                for trial in work.trials
                if (outcome := after.get(trial)) is None
                or (outcome.is_preempted and outcome.run not in tried)
            }
            for work in joined
            if work.path in known
        }
        lost = {work: trials for work, trials in lost.items() if trials}
        if not lost:
            return set()
        heard = {work: agent_heartbeats(self._api, self._project, work.id) for work in lost}
        time.sleep(HEARTBEAT_WAIT_SECONDS)
        ended = [work for work in lost if heard[work] == agent_heartbeats(self._api, self._project, work.id)]
        self._has_helpers = len(ended) < len(lost)
        return {trial for work in ended for trial in lost[work]}

    def result(self) -> LaunchResult:
        """What became of the planned trials, by the server's word."""
        done_before = sum(outcome.is_result for outcome in self._before.values())
        result = LaunchResult(len(self._planned), done_before)
        after = self._outcomes() if self._crews else self._before
        ended_runs, launches = self._agents_of_runs(), self._launches()
        for trial in self._planned:
            if trial in self._before and self._before[trial].is_result:
                continue
            outcome = after.get(trial)
            if (outcome is None or outcome.is_preempted) and launches:
                result.running[trial] = f"{next(iter(launches.values()))}, launch {next(iter(launches))}"
                result.launches.update(launches)
            elif outcome is None:
                result.failures[trial] = self._why_no_run(trial)
            elif outcome.is_result:
                result.ended[outcome.status] += 1
            elif outcome.status == "running":
                result.running[trial] = outcome.run
            elif outcome.is_preempted:
                result.failures[trial] = "it was preempted, and the next agent goes on with it"
            elif outcome.run in ended_runs:
                agent = ended_runs[outcome.run]
                result.failures[trial] = f"{outcome.problem or 'its script failed'}, see {agent.log}"
            else:
                result.failures[trial] = outcome.problem or f"its run {outcome.run} {outcome.status}"
        return result

    def _agents_of_runs(self) -> dict[str, AgentProcess]:
        return {run: agent for crew in self._crews for run, agent in crew.log_of().items()}

    def _launches(self) -> dict[str, str]:
        """Id -> engine of the launches that still have agents at work or waiting; empty where all have ended."""
        engines = [crew for crew in self._crews if isinstance(crew, EngineAgents)]
        return {launch: name for crew in engines for launch, name in crew.launches().items()}

    def _deaths(self) -> str:
        return next((deaths for crew in self._crews if (deaths := crew.deaths())), "")

    def _why_no_run(self, trial: str) -> str:
        if trial in self._claims.left_to:
            return f"the sweep {self._claims.left_to[trial]}, registered at the same moment, holds it"
        if self._has_helpers:
            return "agents elsewhere still work on its sweep"
        return self._no_run

    @cached_property
    def _no_run(self) -> str:
        """Why there is no run of a trial that agents should have done."""
        known = {sweep.path for sweep in list_sweeps(self._api, self._project)}
        gone = [work.path for work in self._work if work.path not in known]
        return (
            f"the sweep {gone[0]} was deleted on W&B"
            if gone
            else self._deaths() or "no run of it reached W&B"
        )

    def summary_if_server_answers(self) -> str:
        """One sentence on what was done, or on why that cannot be told."""
        try:
            return f"{self.result().summary()}."
        except TrackerError as error:
            return f"What was done cannot be told: {error.what}"
