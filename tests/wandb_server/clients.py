"""Real clients for the test server: their environment, and the command lines that start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from wandb_server.server import WandbServer

# seconds before the client tries again, whole ones only; its own are 2 with jitter, and double each time
RETRY_WAITS = {
    f"WANDB__{kind}_RETRY_WAIT_{end}_SECONDS": "1"
    for kind in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
    for end in ("MIN", "MAX")
}
FOLDERS = ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR")


def client_environment(server: WandbServer, folder: Path) -> dict[str, str]:
    """Variables that point the real client at the server, and all its files into a folder (made here)."""
    folders = {f"WANDB_{name}": folder / name.lower() for name in FOLDERS}
    for path in folders.values():
        path.mkdir(parents=True, exist_ok=True)
    return {
        **{name: str(path) for name, path in folders.items()},
        **RETRY_WAITS,
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": server.api_key,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "NETRC": str(folder / "netrc"),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment for a child: ``python`` is this one, and ``wandb_server`` can be imported."""
    here = str(Path(__file__).resolve().parent.parent)
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    modules = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PATH": search, "PYTHONPATH": modules}
    environment.pop("WANDB_SILENT", None)  # what the command line says is what tests read
    return {**environment, **(extra or {})}


def wandb_command(*arguments: str) -> list[str]:
    """The real ``wandb`` command; ``agent`` asks for work every 0.1 s."""
    if arguments[0] == "agent":
        return [sys.executable, "-m", "wandb_server.fast_agent", *arguments[1:]]
    return [sys.executable, "-m", "wandb", *arguments]


def kill_session(process: subprocess.Popen[str]) -> None:
    """Kill a process started with ``start_new_session`` and what it started: a killed agent leaves its training."""
    members = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")] or [process.pid]
    for member in members:
        try:
            if os.getsid(member) == process.pid:
                os.kill(member, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it ended by itself
    process.wait()
