"""The processes of a node's jobs, by what /proc tells of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def kill_jobs(config: str, node: str) -> None:
    """End what the jobs on a node run, and what watches over them, with SIGKILL.

    Args:
        config: slurm.conf of the node's cluster. node: its name.
    """
    found = {pid for pid in _pids() if _is_of(pid, config, node)}
    keepers = {parent for pid in found if _name(parent := _parent(pid)) == "slurmstepd"}
    # The keepers first, which would tell the controller how their jobs ended.
    for pid in [*keepers, *(found - keepers)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _is_of(pid: int, config: str, node: str) -> bool:
    variables = _read(pid, "environ").split(b"\0")
    return f"SLURM_CONF={config}".encode() in variables and f"SLURMD_NODENAME={node}".encode() in variables


def _name(pid: int) -> str:
    return _read(pid, "comm").decode(errors="replace").strip()


def _parent(pid: int) -> int:
    # The name, in brackets, may hold blanks.
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _read(pid: int, what: str) -> bytes:
    """A process may end while it is looked at."""
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""
