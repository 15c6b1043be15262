"""A real SLURM that is started and ended by the tests."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType

import surge_sweeps.launch.tether as tether
from slurm_cluster.config import Ports, write_config
from slurm_cluster.processes import kill_jobs

#: The nodes' names.
NODES = ("one", "two")
START_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0
_TETHER = (sys.executable, "-I", str(Path(tether.__file__)))
_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol")


def slurm_missing() -> str:
    """Why no SLURM can be started here; empty where one can."""
    missing = [name for name in _PROGRAMS if _program(name) is None]
    if missing:
        return f"no SLURM here ({', '.join(missing)}): apt-get install slurmctld slurmd slurm-client munge"
    if os.geteuid() != 0:
        return "the nodes of a SLURM are run by root"
    if not _name_is_loopback():
        return f"this machine's name, {socket.gethostname()!r}, is no name of loopback, where SLURM has to listen"
    with tempfile.TemporaryDirectory() as folder:
        try:
            _make_device(Path(folder) / "device")
        except OSError as error:
            return f"no device files can be made here, which stand in for GPUs: {error}"
    return ""


class SlurmCluster:
    """A controller and two nodes with GPUs that are none; a context manager.

    A job of the partition `high` takes the place of one of `low`, which is requeued. What is requeued waits 6 s, where
    a real cluster waits two minutes.

    Args:
        nodes: how many, 1 or 2. cpus, gpus: of each node. largest_array: the cluster's MaxArraySize. name: its
            own.

    Attributes:
        environment: what a process needs beside its own to find this cluster. folder: of logs and state.
    """

    def __init__(
        self, *, nodes: int = 2, cpus: int = 4, gpus: int = 2, largest_array: int = 1001, name: str = "surge"
    ) -> None:
        # Short: the paths of sockets in it must fit in 108 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="surge-slurm-"))
        self.names: Sequence[str] = NODES[:nodes]
        self._shape = {"cpus": cpus, "gpus": gpus, "largest_array": largest_array}
        self._name = name
        self.environment: Mapping[str, str] = {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> SlurmCluster:
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A daemon that is ended leaves its jobs alone.
        if "slurmctld" in self._daemons:
            self._run("scancel", f"--user={os.getuid()}", check=False)
            self._wait_for_jobs()
        for name in [*(f"slurmd-{node}" for node in self.names), "slurmctld", "munged"]:
            self._end(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pids(self) -> Mapping[str, int]:
        """Daemon -> process id."""
        return {name: process.pid for name, process in self._daemons.items()}

    def run(self, program: str, *arguments: str) -> str:
        """What a command of SLURM prints; raises `CalledProcessError` where it fails."""
        return self._run(program, *arguments).stdout

    def states(self, name: str) -> dict[int, str]:
        """Array index -> state of a job that is known by its name, ended ones included."""
        rows = self.run("squeue", "--noheader", "--array", "--states=all", f"--name={name}", "--format=%K %T")
        return {int(index): state for index, state in (row.split() for row in rows.splitlines())}

    def stop_node(self, node: str) -> None:
        """Let a node go down as a machine does that is switched off: what runs there is killed with it."""
        self._end(f"slurmd-{node}", signal.SIGKILL)
        kill_jobs(self.environment["SLURM_CONF"], node)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=switched off by a test")

    def start_node(self, node: str) -> None:
        """Bring a node up, and wait until it takes jobs."""
        self._daemon(f"slurmd-{node}", "slurmd", "-D", "-N", node)
        self._run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        self._wait_for_nodes()

    def stop_controller(self) -> None:
        """End the controller; jobs go on."""
        self._end("slurmctld")

    def start_controller(self) -> None:
        """Start the controller, which finds its jobs again."""
        self._daemon("slurmctld", "slurmctld", "-D")
        self._wait_for_nodes()

    def _start(self) -> None:
        for name in ("pid", "log", "state", "munge", *(f"spool-{node}" for node in self.names)):
            (self.folder / name).mkdir()
        self.folder.chmod(0o755)
        (self.folder / "munge").chmod(0o700)
        key = self.folder / "munge" / "key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        for number in range(self._shape["gpus"]):
            _make_device(self.folder / f"gpu{number}")
        ports = _free_ports(1 + len(self.names))
        write_config(
            self.folder,
            socket.gethostname(),
            self.names,
            Ports(ports[0], tuple(ports[1:])),
            cluster=self._name,
            **self._shape,
        )
        self._daemon(
            "munged", "munged", "--foreground", "--force", f"--key-file={key}",
            f"--socket={self.folder}/munge.socket", f"--pid-file={self.folder}/pid/munged.pid",
            f"--log-file={self.folder}/log/munged.log", f"--seed-file={self.folder}/munge/seed",
            "--num-threads=2",
        )  # fmt: skip
        self._daemon("slurmctld", "slurmctld", "-D")
        for node in self.names:
            self._daemon(f"slurmd-{node}", "slurmd", "-D", "-N", node)
        self._wait_for_nodes()

    def _daemon(self, name: str, program: str, *arguments: str) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                # A test that is killed takes its daemons with it.
                [*_TETHER, str(os.getpid()), _program(program) or program, *arguments],
                env=os.environ | self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        process = self._daemons.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout=STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=STOP_LIMIT_S)

    def _wait_for_nodes(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            found = self._run("sinfo", "--noheader", "--Node", "--partition=low", "--format=%T", check=False)
            up = [
                state
                for state in found.stdout.split()
                if state in ("idle", "mixed", "allocated", "completing")
            ]
            if len(up) == len(self._running_nodes()) > 0:
                return
            time.sleep(0.1)
        raise RuntimeError(f"SLURM did not come up: {self._logs()}")

    def _running_nodes(self) -> list[str]:
        return [name for name in self._daemons if name.startswith("slurmd-")]

    def _wait_for_jobs(self) -> None:
        deadline = time.monotonic() + STOP_LIMIT_S
        while time.monotonic() < deadline and self._run("squeue", "--noheader", check=False).stdout.strip():
            time.sleep(0.2)

    def _run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=check,
        )

    def _logs(self) -> str:
        files = sorted((self.folder / "log").iterdir())
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-1500:]}" for file in files)


def _program(name: str) -> str | None:
    """A program of SLURM: Debian keeps daemons where only root looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


def _make_device(path: Path) -> None:
    """A copy of /dev/null: SLURM takes no plain file for a GPU."""
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def _name_is_loopback() -> bool:
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    except OSError:
        return False
    return all(ip_address(str(address[4][0])).is_loopback for address in found)


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing listens on."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(server.getsockname()[1]) for server in servers]
    for server in servers:
        server.close()
    return ports
