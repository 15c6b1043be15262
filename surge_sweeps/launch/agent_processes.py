"""`wandb agent` processes on this machine: started, watched, and ended with everything they started.

Each agent leads a session of its own. The training processes that it starts have process groups of their own but stay
in that session, by which they are found again even after their agent was killed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.programs import TETHER
from surge_sweeps.launch.stop import POLL_SECONDS
from surge_sweeps.sweep import Sweep

#: How an agent is started; options and the sweep's path are appended.
AGENT_COMMAND: tuple[str, ...] = (sys.executable, "-m", "wandb", "agent")
#: What agents and their scripts print: .surge/logs/agents/SWEEP-NUMBER.log in the working folder.
LOG_FOLDER = Path(".surge") / "logs" / "agents"
#: How long scripts may take to save and to close their run after TERM; what then still lives is killed.
TERM_TIMEOUT_SECONDS = 30.0
#: Every run deepens the chain of signal handlers of an agent that forwards signals, and at about 990 the agent dies of
#: it (RecursionError): it is replaced by a fresh one long before.
RUNS_PER_AGENT = 200
TAIL_LINES = 3
TAIL_BYTES = 16_384

#: The agent must go on where learning rates that diverge make scripts fail.
_AGENT_SETTINGS = {"WANDB_AGENT_DISABLE_FLAPPING": "true", "WANDB_AGENT_MAX_INITIAL_FAILURES": "1000000"}
#: Left behind by an agent or a run that this process itself may be running under.
_FOREIGN = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_SERVICE")

# An agent's own words for the runs at work, and for one whose script has ended.
_RUNS_AT_WORK = re.compile(rb"wandb\.wandb_agent - INFO - Running runs: \[([^]]+)\]")
_ENDED_RUN = re.compile(rb"wandb\.wandb_agent - INFO - Cleaning up finished run: (\S+)")
_OWN_LINE = re.compile(r" - wandb\.wandb_agent - |^wandb: |^\t")


class AgentProcess:
    """One running `wandb agent`.

    Args:
        sweep_path: `entity/project/id`. number: tells the agents of a sweep apart. environment: see
            `agent_environment`.

    Attributes:
        sweep_path: as given. log: the file it and its scripts print to.
    """

    def __init__(self, sweep_path: str, number: int, environment: dict[str, str]) -> None:
        self.sweep_path = sweep_path
        self.log = LOG_FOLDER / f"{sweep_path.rpartition('/')[2]}-{number}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        arguments = [
            *TETHER,
            str(os.getpid()),
            *AGENT_COMMAND,
            "--forward-signals",
            "--count",
            str(RUNS_PER_AGENT),
            sweep_path,
        ]
        # An earlier call may have worked on the same sweep.
        with self.log.open("ab") as output:
            self._read_to = output.tell()
            self._process = subprocess.Popen(
                arguments,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._orphans: frozenset[int] | None = None
        self._begun: dict[str, None] = {}
        self._ended: dict[str, None] = {}

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that killed it. It says nothing about the runs."""
        code = self._process.poll()
        if code is not None and self._orphans is None:
            # Looked up once, now: a session's number may come to mean another session after its last process ended.
            self._orphans = _session_members(self._process.pid)
        return code

    @property
    def has_orphans(self) -> bool:
        """Whether processes that it started outlive it."""
        return bool(self._living_orphans())

    def ended_runs(self) -> list[str]:
        """W&B's ids of the runs whose script has ended, in order: by the agent's word, or because all has ended."""
        self._read_log()
        return list(self._begun | self._ended if self.has_ended() else self._ended)

    def _read_log(self) -> None:
        with self.log.open("rb") as file:
            file.seek(self._read_to)
            new = file.read()
        # A line that is still being written is read whole the next time.
        whole = new[: new.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for found in _RUNS_AT_WORK.findall(whole):
            self._begun |= dict.fromkeys(
                name.strip(" '") for name in found.decode(errors="replace").split(",")
            )
        self._ended |= dict.fromkeys(name.decode(errors="replace") for name in _ENDED_RUN.findall(whole))

    def tail(self) -> str:
        """The last lines that its scripts printed, else its own."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
        lines = [line for line in lines if line.strip()]
        theirs = [line for line in lines if not _OWN_LINE.search(line)] or lines
        shown = ["".join(c for c in line if c.isprintable()) for line in theirs[-TAIL_LINES:]]
        return " | ".join(shown) or "no output"

    def terminate(self) -> None:
        """Ask it to end; it passes TERM on to its scripts. Orphans of a dead agent are asked directly."""
        if self.exit_code is None:
            self._process.terminate()
        for pid in self._living_orphans():
            _send(pid, signal.SIGTERM)

    def has_ended(self) -> bool:
        """Whether neither it nor anything that it started runs."""
        return self.exit_code is not None and not self.has_orphans

    def kill(self) -> None:
        """End it and everything that it started, at once."""
        members = _session_members(self._process.pid) if self.exit_code is None else self._living_orphans()
        for pid in members:
            _send(pid, signal.SIGKILL)
        self._process.wait()
        # Whatever began to run while the others were ended.
        if not self.has_ended():
            for pid in self._living_orphans():
                _send(pid, signal.SIGKILL)

    def _living_orphans(self) -> frozenset[int]:
        return self._orphans & _session_members(self._process.pid) if self._orphans else frozenset()


def stop_agents(agents: Sequence[AgentProcess]) -> None:
    """End agents and all they started: TERM, a bounded wait, then KILL; a second Ctrl-C meanwhile kills at once."""
    try:
        for agent in agents:
            agent.terminate()
        deadline = time.monotonic() + TERM_TIMEOUT_SECONDS
        while time.monotonic() < deadline and not all(agent.has_ended() for agent in agents):
            time.sleep(POLL_SECONDS)
    finally:
        for agent in agents:
            agent.kill()


def agent_environment(sweeps: Iterable[Sweep]) -> dict[str, str]:
    """The variables that agents are started with: failures do not stop them, and `python` is this interpreter.

    Raises:
        SurgeError: `${interpreter}` in a sweep's command would find no `python`.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    # Not resolved: the folder of a virtual environment is where its `python` lies, not where the link points to.
    folders = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
    environment["PATH"] = os.pathsep.join(folders)
    if any("${interpreter}" in sweep.command for sweep in sweeps):
        python = shutil.which("python", path=environment["PATH"])
        if python is None:
            raise SurgeError(
                "a W&B agent starts scripts with `python`, and there is no `python` here.",
                "Work in a virtual environment (`python3 -m venv .venv`), which has one.",
            )
    return environment | _AGENT_SETTINGS


def _session_members(session: int) -> frozenset[int]:
    """The living processes of a session; those that ended and that nobody asked after do not count."""
    listed = _processes_of_linux() if Path("/proc/self/stat").exists() else _processes_of_ps()
    return frozenset(
        pid for pid, state in listed if not state.startswith("Z") and _session_of(pid) == session
    )


def _processes_of_linux() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # The name, in brackets, may hold anything.
                yield int(entry.name), (entry / "stat").read_text(errors="replace").rpartition(")")[2].strip()


def _processes_of_ps() -> Iterator[tuple[int, str]]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,stat="], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        pid, _, state = line.strip().partition(" ")
        yield int(pid), state.strip()


def _session_of(pid: int) -> int | None:
    with suppress(ProcessLookupError, PermissionError):
        return os.getsid(pid)
    return None


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
