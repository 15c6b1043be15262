"""How the suite runs, and servers for its tests, all on loopback.

W&B: a test server and the real command line. MLflow: a real `mlflow server`, and PostgreSQL.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from mlflow_stores import MlflowServer, Postgres, postgres_missing
from wandb_server import WandbServer
from wandb_server.clients import child_environment, client_environment, kill_session, wandb_command

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

# How long one example takes depends on what else runs on the machine: no test of ours is one of speed.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

WandbCli = Callable[..., "subprocess.CompletedProcess[str]"]
WandbPopen = Callable[..., "subprocess.Popen[str]"]


#: Files whose tests share a cluster, or what takes long to write: one worker runs a chain. The longest are first: begun
#: last, one would run on alone.
CHAINS = {
    "launch/test_slurm_faults.py": "SLURM's faults",
    "launch/test_ray.py": "Ray",
    "launch/test_slurm.py": "SLURM",
    "launch/test_slurm_agents.py": "SLURM",
    "launch/test_slurm_arrays.py": "SLURM",
    "trackers/mlflow/test_foreign.py": "foreign programs",
}


def chain_of(test: str) -> str:
    """The chain of a test by its id; a test outside all of them is one of its own."""
    return CHAINS.get(test.partition("::")[0].removeprefix("tests/"), test)


def chain_place(test: str) -> int:
    """Where a test's chain comes; those of one test alone come last."""
    names = list(CHAINS.values())
    return names.index(chain_of(test)) if chain_of(test) in names else len(names)


def pytest_configure() -> None:
    gone = [file for file in CHAINS if not (Path(__file__).parent / file).exists()]
    if gone:
        raise pytest.UsageError(
            f"CHAINS of tests/conftest.py names files that are not there: {', '.join(gone)}"
        )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out whole chains. xdist 3.8 has groups for it, by marks, which pytest 9.2 no longer lets it see."""
    from xdist.scheduler import LoadScopeScheduling

    class Chained(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return chain_of(nodeid)

    # It would begin with the chains of most tests.
    config.option.loadscopereorder = False
    return Chained(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: chain_place(item.nodeid))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported for the tests stays: the collector passes over it neither meanwhile nor later on."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def wandb_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A fresh test server, and an environment in which the real client finds it and nothing else.

    A client process of its own for each test costs 0.2 s; a shared one would keep the settings of earlier tests.
    """
    wandb = pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    with WandbServer() as server:
        for name, value in client_environment(server, tmp_path / "wandb-home").items():
            monkeypatch.setenv(name, value)
        wandb.teardown()  # what an earlier test left behind knows another environment
        yield server
        wandb.teardown()


@pytest.fixture
def wandb_cli(wandb_server: WandbServer, tmp_path: Path) -> WandbCli:
    """Run the real ``wandb`` command: ``wandb_cli("sweep", "x.yaml")``; ``agent`` asks for work every 0.1 s.

    Keyword arguments: ``cwd`` (the test's folder by default), ``env`` (added variables), ``timeout`` in seconds.
    """

    def run(
        *arguments: str, cwd: Path = tmp_path, env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        command, environment = wandb_command(*arguments), child_environment(env)
        return subprocess.run(
            command, cwd=cwd, env=environment, timeout=timeout, capture_output=True, text=True
        )

    return run


@pytest.fixture
def wandb_popen(wandb_server: WandbServer, tmp_path: Path) -> Iterator[WandbPopen]:
    """Start the real ``wandb`` command without waiting, in a session of its own; its end is the test's end.

    Output of both kinds is in ``stdout``. Keyword arguments as for ``wandb_cli``.
    """
    started: list[subprocess.Popen[str]] = []

    def start(
        *arguments: str, cwd: Path = tmp_path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            wandb_command(*arguments),
            cwd=cwd,
            env=child_environment(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        kill_session(process)
        if process.stdout:
            process.stdout.close()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store in SQLite with nothing in it, to copy: MLflow takes seconds to make one."""
    pytest.importorskip("mlflow")
    from surge_sweeps.trackers.mlflow.client import connect

    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL cluster for the whole session; each test makes a database of its own there."""
    pytest.importorskip("mlflow")
    if why := postgres_missing():
        pytest.skip(why)
    with Postgres() as cluster:
        yield cluster


@pytest.fixture
def postgres_uri(postgres: Postgres) -> str:
    """An MLflow store of the test's own in PostgreSQL."""
    return postgres.database()


@pytest.fixture(scope="session")
def shared_server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One real `mlflow server` on SQLite for the whole session, since it takes seconds to start.

    A test that uses it takes an experiment of a name of its own and leaves the server running.
    """
    folder = tmp_path_factory.mktemp("shared-server")
    store = shutil.copy(empty_store, folder / "mlflow.db")
    with MlflowServer(f"sqlite:///{store}", folder) as server:
        yield server


@pytest.fixture
def mlflow_server(empty_store: Path, tmp_path: Path) -> Iterator[MlflowServer]:
    """A real `mlflow server` of the test's own, which it may kill and start again; its store is empty."""
    store = shutil.copy(empty_store, tmp_path / "mlflow.db")
    with MlflowServer(f"sqlite:///{store}", tmp_path) as server:
        yield server
