"""W&B agents that an engine starts: one task an agent, one agent a cell of a registered sweep.

It stands in for `Crew` where the agents are not this process's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from surge_sweeps.launch.agent_processes import AgentProcess
from surge_sweeps.launch.base import IN_FLIGHT, Launcher
from surge_sweeps.launch.claims import Work
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.plan import Plan, Resources, Task, new_launch_id
from surge_sweeps.launch.recorded import open_launches
from surge_sweeps.launch.stop import StopRequest
from surge_sweeps.launch.target import Target
from surge_sweeps.launch.watch import OnStatus, Watch, tell_nobody
from surge_sweeps.progress import ProgressCallback
from surge_sweeps.sweep import Sweep


class AgentEngine:
    """An engine that starts agents.

    Args:
        launcher: the engine. target: where their runs go. resources: of each agent. wait: return when all have ended;
            else when the engine has them. on_status: see `launch_sweeps`.
    """

    def __init__(
        self,
        launcher: Launcher,
        target: Target,
        resources: Resources,
        *,
        wait: bool = True,
        on_status: OnStatus = tell_nobody,
    ) -> None:
        self.launcher = launcher
        self.target = target
        self.resources = resources
        self.wait = wait
        self.on_status = on_status

    def plan(self, work: Sequence[Work], sweeps: Sequence[Sweep], busy: Mapping[str, int]) -> Plan:
        """One agent for each cell left, less `busy`: how many earlier launches have for each sweep, by its path."""
        tasks = [
            Task("agent", _index_of(item, sweeps), (), item.path)
            for item in work
            for _ in range(item.cells - busy.get(item.path, 0))
        ]
        return Plan(
            new_launch_id(),
            self.target.project,
            self.target.tracker,
            self.target.uri,
            self.target.working_folder,
            tuple(sweeps),
            tuple(tasks),
            self.resources,
            self.launcher.name,
            self.target.store_id,
        )

    def describe(self, work: Sequence[Work], sweeps: Sequence[Sweep]) -> str:
        """What would be handed to the engine; see `Launcher.describe`."""
        return self.launcher.describe(Launch.at_home(self.plan(work, sweeps, {})))

    def busy(self) -> dict[str, Counter[str]]:
        """Launch id -> path of a sweep -> how many agents for it wait or work, of earlier launches from this folder."""
        return {
            launch.plan.launch_id: Counter(
                launch.plan.tasks[task].agent
                for task, state in states.items()
                if state.state in IN_FLIGHT and launch.plan.tasks[task].kind == "agent"
            )
            for launch, states in open_launches(self.target.working_folder, is_alone=True)
        }


class EngineAgents:
    """The agents of one launch; see `Crew` for what it stands in for.

    Args:
        engine: starts them. work: the registered sweeps. sweeps: what was planned.
    """

    def __init__(self, engine: AgentEngine, work: Sequence[Work], sweeps: Sequence[Sweep]) -> None:
        self._engine = engine
        busy = engine.busy()
        self._earlier = {
            launch: engine.launcher.name
            for launch, agents in busy.items()
            if any(agents[item.path] for item in work)
        }
        self._plan = engine.plan(work, sweeps, sum(busy.values(), Counter[str]()))
        self._watch: Watch | None = None
        self.agents: list[AgentProcess] = []

    def run(self, progress: ProgressCallback, stop: StopRequest) -> None:
        """See `Watch.run`."""
        if not self._plan.tasks:
            return
        launch = Launch.create(self._plan)
        self._watch = Watch(launch, self._engine.launcher, progress, self._engine.on_status)
        self._watch.run(stop, wait=self._engine.wait)

    def log_of(self) -> Mapping[str, AgentProcess]:
        """None: what these agents print is with their engine."""
        return {}

    def launches(self) -> dict[str, str]:
        """Id -> engine of the launches, this one and earlier ones, that still have agents for these sweeps."""
        states = self._watch.states if self._watch else {}
        own = any(state.state in IN_FLIGHT for state in states.values())
        return self._earlier | ({self._plan.launch_id: self._plan.engine} if own else {})

    def deaths(self) -> str:
        """Why the first agent that failed did; empty if none has."""
        states = self._watch.states if self._watch else {}
        return next((state.why for state in states.values() if state.state == "failed"), "")


def _index_of(work: Work, sweeps: Sequence[Sweep]) -> int:
    """The planned sweep whose trials a registered one holds: it says what command they run."""
    for number, sweep in enumerate(sweeps):
        if work.trials & {trial.trial_id for trial in sweep.trials()}:
            return number
    return 0
