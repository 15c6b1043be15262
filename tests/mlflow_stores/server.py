"""A real `mlflow server` in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

START_LIMIT_S = 90.0
STOP_LIMIT_S = 30.0


class MlflowServer:
    """A server on loopback that can be killed and started again on the same port; a context manager.

    Args:
        store: the backend store's URI. folder: of its artifacts and its log. options: more options of `mlflow server`.
        environment: more variables for the server. port: default a free one.
    """

    def __init__(
        self,
        store: str,
        folder: Path,
        *,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        self.store = store
        self.port = port or free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.artifacts = folder / "artifacts"
        self.log = folder / f"mlflow-server-{self.port}.log"
        self._folder = folder
        self._options = list(options)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> MlflowServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers; raises `RuntimeError` with its log where it does not."""
        command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.store,
            "--artifacts-destination", str(self.artifacts), "--host", "127.0.0.1", "--port", str(self.port),
            "--workers", "1", *self._options,
        ]  # fmt: skip
        # A server that was itself started under a tracking URI would be a client of it.
        inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=inherited | settings | self._environment,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if _answers(f"{self.uri}/health"):
                return
            time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"mlflow server did not start: {self.log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """End it, and the workers it started, with SIGKILL, as a machine that goes down does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it; a second call does nothing."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _signal_session(process.pid, number)
        try:
            process.wait(timeout=STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            _signal_session(process.pid, signal.SIGKILL)
            process.wait(timeout=STOP_LIMIT_S)


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _signal_session(leader: int, number: signal.Signals) -> None:
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:
        return False
