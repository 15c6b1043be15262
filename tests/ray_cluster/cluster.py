"""One node of Ray in processes of its own, with its dashboard and with token authentication."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from surge_sweeps.errors import SurgeError
from surge_sweeps.extras import require
from surge_sweeps.launch.ray.cluster import LocalCluster

CPUS = 4
GPUS = 2
#: 127.0.0.1 and ::ffff:127.0.0.1, as the kernel writes them.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
_LISTENS = "0A"


def ray_missing() -> str:
    """Why no cluster can be started here; empty where one can."""
    try:
        require("ray.dashboard.optional_deps", "ray")
    except SurgeError as error:
        return str(error)
    return ""


class RayCluster:
    """A running cluster; a context manager. It is started as the launches' own are, with other counts.

    Attributes:
        address: of its dashboard. environment: what a client needs, its token's file among it. folder: of its token and
            all that Ray keeps.
    """

    def __enter__(self) -> RayCluster:
        self._cluster = LocalCluster(CPUS, GPUS)
        self.address = self._cluster.address
        self.environment = self._cluster.environment
        self.folder = self._cluster.folder
        self.session = self._cluster.pid or 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.stop()

    def processes(self) -> list[int]:
        """The processes that Ray started; without those of its tasks."""
        return processes_of(self.session)

    def listeners(self) -> set[str]:
        """The addresses that its processes listen on, as the kernel writes them."""
        return {address for pid in self.processes() for address in _listening(pid)}


def processes_of(group: int) -> list[int]:
    """The living processes of a process group."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if _group_of(pid) == group and command_of(pid)]


def command_of(pid: int) -> str:
    """The command line of a process; empty where it has gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def kill(pid: int) -> None:
    """SIGKILL one process, and wait until it has gone."""
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while command_of(pid) and time.monotonic() < deadline:
        time.sleep(0.05)


def _group_of(pid: int) -> int:
    with suppress(OSError):
        return os.getpgid(pid)
    return -1


def _listening(pid: int) -> set[str]:
    open_files = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            open_files.add(str(path.readlink()))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == _LISTENS and f"socket:[{rest[5]}]" in open_files:
                found.add(local.partition(":")[0])
    return found
