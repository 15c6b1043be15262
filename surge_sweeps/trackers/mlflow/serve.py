"""`mlflow server` on a user's store, set up for looking at sweeps: light, quiet, and with its artifacts found.

The store's URI goes to it by the environment, never as an argument, since other users of a machine see arguments.
"""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.mlflow.uri import absolute_uri, hide_credentials, sqlite_path

_PORTS_TRIED = 50
_START_LIMIT_S = 180.0
_STOP_LIMIT_S = 10.0
_TAIL_LINES = 15
_ANYWHERE = ("0.0.0.0", "::")
#: Jobs (for evaluations of language models) take eight more processes, 2 GB and 12 s at the start.
_SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # What MLflow's code says to its own authors, and each step of its start.
    "PYTHONWARNINGS": "ignore",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
#: The server's log of what went well.
_IDLE_TALK = re.compile(r"(\d{4}[/-]\d\d[/-]\d\d [\d:.,]+ )?(INFO|DEBUG)\b")
#: Left in the environment, the first makes the server a client of another; the next two would name another store.
_NOT_INHERITED = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_REGISTRY_STORE_URI")
_DESTINATION = "MLFLOW_ARTIFACTS_DESTINATION"
_ROOT = "MLFLOW_DEFAULT_ARTIFACT_ROOT"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("login01")
    (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def free_port(host: str, wanted: int) -> int:
    """The port wanted, or where it is taken the next one that is free.

    Raises:
        TrackerError: the host is no address of this machine, or none of 50 ports is free.
    """
    failure: OSError | None = None
    for port in range(wanted, min(wanted + _PORTS_TRIED, 65_536)):
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as listener:
                # As the server itself: a port that an ended one has just left is free.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
                return port
        except socket.gaierror as error:
            failure = error
            break
        except OSError as error:
            failure = error
    raise TrackerError(
        f"no server can listen on {host!r}, port {wanted}: {failure.strerror if failure else 'no such port'}.",
        "Give --host an address of this machine (127.0.0.1, 0.0.0.0 for all) and --port a number from 1024 to 65535.",
    )


@dataclass(frozen=True)
class ServerPlan:
    """How a server will be started.

    Attributes:
        command: program and arguments, none of them a secret. environment: all variables it gets.
        url: where this machine reaches it. names: under which it answers, as in an address; empty on loopback.
        destination: where it keeps and finds artifacts whose address is `mlflow-artifacts:`.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    url: str
    names: tuple[str, ...]
    destination: str


def plan_server(
    uri: str, host: str, port: int, *, names: Sequence[str] = (), workers: int = 2, folder: Path | None = None
) -> ServerPlan:
    """Plan a server on a store.

    Args:
        uri: a database. host, port: where it listens. names: more names that it is reached under.
        workers: processes that answer. folder: of artifacts, where the store is no file; default the working folder.

    Artifacts: those with a plain path show wherever they lie, since the server reads that path. On loopback, new
    experiments get a plain path beside the store, as those have that were made without a server: they show with and
    without one. For the network they get `mlflow-artifacts:` addresses, through which other machines can write.
    MLFLOW_DEFAULT_ARTIFACT_ROOT and MLFLOW_ARTIFACTS_DESTINATION go before all this.
    """
    path = sqlite_path(uri)
    beside = path.parent if path is not None else (folder or Path()).resolve()
    proxied, plain = beside / "mlartifacts", beside / "mlruns"
    # MLflow's own default for what a server keeps is ./mlartifacts: one that is there holds earlier artifacts.
    found = str(proxied if proxied.is_dir() else plain)
    destination = os.environ.get(_DESTINATION) or found
    local = is_loopback(host)
    root = os.environ.get(_ROOT) or (str(plain) if local else "mlflow-artifacts:/")
    reached = () if local else _names(host, names)
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    environment |= _SETTINGS | {
        "MLFLOW_BACKEND_STORE_URI": absolute_uri(uri),
        _DESTINATION: destination,
        _ROOT: root,
    }
    if reached:
        # The port is part of the name that a browser sends, and MLflow compares the whole.
        environment["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join(
            item for name in reached for item in _host_patterns(name)
        )
        environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(
            f"http://{name}:{port}" for name in reached
        )
    # Artifacts are read in the server; what it logs of each request is of no use here.
    options = "--log-level warning --timeout-graceful-shutdown 5"
    command = (
        sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port),
        "--workers", str(workers), "--uvicorn-opts", options,
    )  # fmt: skip
    shown = "127.0.0.1" if host == "0.0.0.0" else "::1" if host == "::" else host
    return ServerPlan(command, environment, f"http://{_in_url(shown)}:{port}", reached, destination)


class RunningServer:
    """A server in a session of its own, so that whatever it starts can be ended with it; a context manager.

    Args:
        plan: how. tether: what is put before the command, to end it with this process. tell: gets the warnings and
            errors that the server prints after its start, without credentials.
    """

    def __init__(self, plan: ServerPlan, tether: Sequence[str], tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._tell = tell
        self._is_ready = threading.Event()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process = subprocess.Popen(
            [*tether, *plan.command],
            env=dict(plan.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def wait_until_ready(self, is_stopped: Callable[[], bool]) -> None:
        """Return once it answers, or once `is_stopped` says that nobody waits any more.

        Raises:
            TrackerError: it ended, or gave no answer for three minutes; with the last lines that it printed.
        """
        deadline = time.monotonic() + _START_LIMIT_S
        while self.is_alive and time.monotonic() < deadline:
            if is_stopped() or _answers(f"{self._plan.url}/health"):
                self._is_ready.set()
                return
            time.sleep(0.1)
        raise self.failure("did not start")

    def failure(self, what: str) -> TrackerError:
        """The error for a server that ended by itself, with its last words."""
        self.stop()
        said = "\n".join(f"  {line}" for line in self._tail) or "  (nothing)"
        return TrackerError(f"the MLflow server {what}. Its last words:\n{said}")

    def stop(self) -> None:
        """End it and everything it started: asked for ten seconds, then killed."""
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_STOP_LIMIT_S)
        # The whole group: a worker may outlive the process that started it.
        self._signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        self._process.wait()
        self._listener.join(timeout=1)

    def _signal(self, number: signal.Signals) -> None:
        try:
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, number)
            elif self.is_alive:
                self._process.terminate()
        except (ProcessLookupError, PermissionError):
            return

    def _listen(self) -> None:
        if self._process.stdout is None:
            return
        with self._process.stdout as stream:
            for raw in stream:
                text = hide_credentials(raw.decode(errors="replace")).strip("\r\n")
                line = "".join(letter for letter in text if letter.isprintable())
                if not line.strip():
                    continue
                self._tail.append(line)
                if self._is_ready.is_set() and not _IDLE_TALK.match(line):
                    self._tell(line)


def _names(host: str, more: Sequence[str]) -> tuple[str, ...]:
    given = [] if host in _ANYWHERE else [host]
    everywhere = [
        *given,
        *more,
        socket.gethostname(),
        socket.getfqdn(),
        *_addresses(host),
        "localhost",
        "127.0.0.1",
        "::1",
    ]
    return tuple(dict.fromkeys(_in_url(name) for name in everywhere))


def _addresses(host: str) -> list[str]:
    """The addresses of this machine that its own name leads to, and the one that leads out."""
    if host not in _ANYWHERE:
        return []
    found: list[str] = []
    # A machine whose name leads nowhere, or without a network, has none of one kind or the other.
    with suppress(OSError):
        found += [str(item[4][0]) for item in socket.getaddrinfo(socket.gethostname(), None)]
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: this only asks which way a packet would go.
        probe.connect(("192.0.2.1", 9))
        found.append(str(probe.getsockname()[0]))
    return found


def _host_patterns(name: str) -> tuple[str, str]:
    # MLflow takes a name with "*" as a pattern, in which "[" opens a set.
    return name, f"{name.replace('[', '[[]', 1)}:*"


def _in_url(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def _answers(url: str) -> bool:
    # Never through a proxy: it would be asked for its own loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2):
            return True
    except OSError:
        return False
