"""A fixed number of `wandb agent` processes that work off some registered sweeps, one after the other.

Which agent does which cell is the server's business. An agent that ends because it did its share is replaced, one that
ends sooner was told that its sweep has nothing left, and one that was killed is not replaced.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from surge_sweeps.counting import counted
from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.launch.agent_processes import RUNS_PER_AGENT, AgentProcess, stop_agents
from surge_sweeps.launch.claims import Work
from surge_sweeps.launch.stop import POLL_SECONDS, StopRequest
from surge_sweeps.progress import ProgressCallback
from surge_sweeps.trackers.wandb.sweep_runs import ACTIVE, RunState

#: How often the server is asked how far the sweeps are.
SERVER_POLL_SECONDS = 8.0
AWAY_AFTER_SECONDS = 10.0
JOIN_SECONDS = 2.0
#: So many runs with no loss from any of them mean that the script cannot work.
MAX_FIRST_FAILURES = 10
#: Short: a progress bar shares a line of 80 characters with it.
AWAY = "W&B away; Ctrl-C stops, nothing is lost"


class ServerView:
    """Asks the server again and again in a thread of its own, so that a server that is away delays nothing.

    Args:
        ask: returns the runs of the sweeps at work.
    """

    def __init__(self, ask: Callable[[], list[RunState]]) -> None:
        self._ask = ask
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="surge-server-view", daemon=True)
        self._asked_s: float | None = None
        self._has_failed = False
        self.runs: Sequence[RunState] = ()

    def __enter__(self) -> ServerView:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        # It may be asking; a server that is away is not waited for.
        self._thread.join(JOIN_SECONDS)

    @property
    def is_away(self) -> bool:
        """Whether the server did not answer, or is slow to: it is given a minute or two before that counts as none."""
        asked_s = self._asked_s
        return self._has_failed or (asked_s is not None and time.monotonic() - asked_s > AWAY_AFTER_SECONDS)

    def _watch(self) -> None:
        while not self._stop.wait(SERVER_POLL_SECONDS):
            self._asked_s = time.monotonic()
            try:
                self.runs = self._ask()
                self._has_failed = False
            except TrackerError:
                self._has_failed = True
            self._asked_s = None


class Crew:
    """Agents at work.

    Args:
        work: the sweeps. size: agents at a time. environment: see `agent_environment`.
        view: what the server says. metrics: asks it for the metrics that each run has logged, by run id.
        known_to_work: whether the scripts have given results before; else a script that always fails is stopped.
    """

    def __init__(
        self,
        work: Sequence[Work],
        size: int,
        environment: Mapping[str, str],
        view: ServerView,
        metrics: Callable[[], Mapping[str, frozenset[str]]],
        *,
        known_to_work: bool,
    ) -> None:
        self._work = list(work)
        self._cells = sum(item.cells for item in work)
        self._ended_before = sum(item.ended for item in work)
        self._losses = frozenset(item.loss for item in work)
        self._size = size
        self._environment = dict(environment)
        self._view = view
        self._metrics = metrics
        self._known_to_work = known_to_work
        self._next_check = 0.0
        self._active: list[AgentProcess] = []
        self._started: Counter[str] = Counter()
        self.agents: list[AgentProcess] = []

    def run(self, progress: ProgressCallback, stop: StopRequest) -> None:
        """Return when every agent has ended; nothing of them is left however this ends.

        Raises:
            Stopped: the user asked for it. SurgeError: an agent cannot start, or the script can never work.
        """
        try:
            while True:
                stop.check()
                self._fill()
                if not self._active:
                    return
                time.sleep(POLL_SECONDS)
                self._dismiss_ended()
                self._give_up_if_hopeless()
                self._tell(progress)
        except BaseException:
            stop_agents(self.agents)
            raise

    def log_of(self) -> dict[str, AgentProcess]:
        """W&B's run id -> the agent that did it, for the runs whose script has ended."""
        return {run: agent for agent in self.agents for run in agent.ended_runs()}

    def deaths(self) -> str:
        """How many agents did not end by themselves, and what became of the first; empty if all did."""
        ended = [(agent, agent.exit_code) for agent in self.agents]
        dead = [f"{_death(code)}, see {agent.log}: {agent.tail()}" for agent, code in ended if code]
        if not dead:
            return ""
        return dead[0] if len(dead) == 1 else f"{len(dead)} agents failed, the first: {dead[0]}"

    def _fill(self) -> None:
        dead = sum(1 for agent in self.agents if (agent.exit_code or 0) < 0)
        while len(self._active) < self._size - dead:
            work = next((work for work in self._work if self._has_room(work)), None)
            if work is None:
                return
            self._started[work.path] += 1
            try:
                agent = AgentProcess(work.path, self._started[work.path], self._environment)
            except OSError as error:
                raise SurgeError(f"no agent can be started: {error.strerror or error}.") from error
            self._active.append(agent)
            self.agents.append(agent)

    def _has_room(self, work: Work) -> bool:
        return sum(agent.sweep_path == work.path for agent in self._active) < work.cells

    def _dismiss_ended(self) -> None:
        for agent in [agent for agent in self._active if agent.exit_code is not None]:
            self._active.remove(agent)
            path = agent.sweep_path
            done = sum(len(each.ended_runs()) for each in self.agents if each.sweep_path == path)
            all_done = any(work.cells <= done for work in self._work if work.path == path)
            did_its_share = len(agent.ended_runs()) >= RUNS_PER_AGENT
            was_killed = (agent.exit_code or 0) < 0
            # What killed an agent says nothing of its sweep: the others go on with it.
            if all_done or not (did_its_share or was_killed):
                self._work = [work for work in self._work if work.path != path]

    def _give_up_if_hopeless(self) -> None:
        """A script that fails every time from the start will go on doing so."""
        if self._known_to_work or time.monotonic() < self._next_check:
            return
        ended = self.log_of()
        if len(ended) < MAX_FIRST_FAILURES:
            return
        try:
            logged = self._metrics()
        except TrackerError:
            self._next_check = time.monotonic() + SERVER_POLL_SECONDS
            return
        names = [logged.get(run, frozenset()) for run in ended]
        if any(self._losses & found for found in names):
            self._known_to_work = True
            return
        others = sorted({name for found in names for name in found})
        wanted = " or ".join(map(repr, sorted(self._losses)))
        what = f"they logged no {wanted}, only: {', '.join(others[:10])}"
        last = next(reversed(ended.values()))
        raise SurgeError(
            f"the first {len(ended)} runs all failed: {what if others else last.tail()}, see {last.log}.",
            "Mend the script (or the metric of the sweep file), then call again.",
        )

    def _tell(self, progress: ProgressCallback) -> None:
        running = sum(run.state in ACTIVE for run in self._view.runs)
        ended = len(self._view.runs) - running - self._ended_before
        text = f"{counted(len(self._active), 'agent')}, {running} running"
        progress(max(0, ended), self._cells, AWAY if self._view.is_away else text)


def _death(exit_code: int) -> str:
    if exit_code > 0:
        return f"an agent ended with exit code {exit_code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"an agent was killed by {names.get(-exit_code, f'signal {-exit_code}')}"
