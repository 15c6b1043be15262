"""How the suite runs, and fixtures for W&B: a test server on loopback and the real command line."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import settings
from wandb_server import WandbServer
from wandb_server.clients import child_environment, client_environment, kill_session, wandb_command

# How long one example takes depends on what else runs on the machine: no test of ours is one of speed.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

WandbCli = Callable[..., "subprocess.CompletedProcess[str]"]
WandbPopen = Callable[..., "subprocess.Popen[str]"]


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
