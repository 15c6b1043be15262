"""A Ray cluster of our own: one node, this machine, reached by nobody else, gone when the launch is.

On Linux Ray puts a machine's routable address in the place of 127.0.0.1 and listens there. The setting by which it
stays on loopback on Windows and macOS works on Linux too. A token keeps other users of the machine away, and a folder
that nobody else may enter keeps them from the token, the sockets and the logs: Ray opens its own to everybody.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from surge_sweeps.errors import SurgeError
from surge_sweeps.extras import require
from surge_sweeps.launch.one_line import one_line
from surge_sweeps.launch.programs import TETHER
from surge_sweeps.launch.ray.jobs import JobsClient

START_SECONDS = 120.0
#: Ray's processes may take this long to end after TERM; what then still lives is killed.
STOP_SECONDS = 15.0
POLL_SECONDS = 0.2
_TAIL_LINES = 3
#: Objects that tasks return: an exit code each.
_OBJECT_STORE_BYTES = 80_000_000


class LocalCluster:
    """Ray's processes on this machine, started at once; they end with this process, however it ends.

    Args:
        cpus, gpus: that Ray may give to tasks; None: what it finds.

    Attributes:
        address: of its dashboard. folder: its token, its sockets and logs; made for it, and removed at its end.

    Raises:
        MissingExtraError: Ray is not installed here. SurgeError: it does not start.
    """

    def __init__(self, cpus: int | None = None, gpus: int | None = None) -> None:
        require("ray.dashboard.optional_deps", "ray")
        # Paths of sockets are short, so the folder cannot lie just anywhere.
        root = "/tmp" if Path("/tmp").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="surge-ray-", dir=root))
        self.token_file = self.folder / "token"
        token = secrets.token_hex(32)
        self.token_file.write_text(token)
        self.token_file.chmod(0o600)
        self.log = self.folder / "ray.log"
        # Of a short name, as the paths of sockets in it have 107 bytes.
        (self.folder / "r").mkdir()
        self.address = f"http://127.0.0.1:{_free_port()}"
        self._process: subprocess.Popen[bytes] | None = self._start(cpus, gpus)
        self.client = JobsClient(self.address, token)
        try:
            self._wait_until_up(self._process)
        except BaseException:
            self.stop()
            raise

    @property
    def environment(self) -> dict[str, str]:
        """What a client of it needs in its environment."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}

    @property
    def pid(self) -> int | None:
        """Of the process that leads the others; None after `stop`."""
        return self._process.pid if self._process else None

    def is_running(self) -> bool:
        """Whether its leading process lives."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it; what still runs on it is asked to save its state. A second call does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        # All of Ray's own processes are of the group of the first one.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, cpus: int | None, gpus: int | None) -> subprocess.Popen[bytes]:
        counts = {"--num-cpus": cpus, "--num-gpus": gpus}
        command = [
            *TETHER, str(os.getpid()), sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
            "--node-ip-address=127.0.0.1", "--port=0", "--min-worker-port=0", "--max-worker-port=0",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={self.address.rpartition(':')[2]}",
            "--dashboard-agent-listen-port=0", f"--ray-client-server-port={_free_port()}", "--disable-usage-stats",
            f"--object-store-memory={_OBJECT_STORE_BYTES}", f"--temp-dir={self.folder / 'r'}",
            *(f"{name}={count}" for name, count in counts.items() if count is not None),
        ]  # fmt: skip
        # Another cluster that the environment names is not this one.
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN")
        }
        settings = {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        with self.log.open("wb") as log:
            return subprocess.Popen(
                command,
                env=inherited | settings | self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ray ends its own process group, and Ctrl-C is not for it.
                start_new_session=True,
            )

    def _wait_until_up(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(SurgeError):
                if self.client.nodes():
                    return
            time.sleep(POLL_SECONDS)
        how = "did not start in time" if process.poll() is None else "ended at its start"
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_TAIL_LINES:]
        text = " | ".join(map(one_line, lines))
        raise SurgeError(f"Ray {how}: {text or 'it printed nothing'}.", "Try: ray start --head --block")


def _free_port() -> int:
    # Ports that the system gives out by itself lie elsewhere than those that Ray takes by itself.
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
