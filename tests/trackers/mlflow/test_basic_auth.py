"""MLflow's own login, on a real server: whoever is not let in is told why, in the same words wherever he asks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("mlflow")
pytest.importorskip("flask_wtf")

from mlflow import MlflowClient
from mlflow.server.auth.client import AuthServiceClient
from mlflow_stores import MlflowServer

from surge_sweeps.cli.sweep import app
from surge_sweeps.errors import SurgeError
from surge_sweeps.trackers import collect, open_tracker
from surge_sweeps.trackers.base import RunRecord

PROJECT = "digits"
ADMIN = "boss"
NO_LOGIN = "does not accept the credentials given, or none were"
NO_PERMISSION = "does not let this user do that: Permission denied"


def password(user: str) -> str:
    return f"password of {user}"


@pytest.fixture
def log_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Sets the environment's credentials; None: there are none."""

    def log_in(user: str | None, word: str | None = None) -> None:
        for name, value in (("USERNAME", user), ("PASSWORD", user and (word or password(user)))):
            if value is None:
                monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
            else:
                monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)

    log_in(None)
    return log_in


@pytest.fixture
def server(empty_store: Path, tmp_path: Path) -> Iterator[MlflowServer]:
    settings = tmp_path / "basic_auth.ini"
    settings.write_text(
        "[mlflow]\n"
        "default_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{tmp_path / 'users.db'}\n"
        f"admin_username = {ADMIN}\n"
        f"admin_password = {password(ADMIN)}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment = {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test"}
    store = shutil.copy(empty_store, tmp_path / "mlflow.db")
    options = ["--app-name", "basic-auth"]
    with MlflowServer(f"sqlite:///{store}", tmp_path, options=options, environment=environment) as running:
        yield running


def write(uri: str, sweep: str) -> None:
    tracker = open_tracker("mlflow", PROJECT, uri)
    tracker.open_sweep(sweep, "grid", {"name": "grid"})
    points = [(0, 2.0), (1, 1.0)]
    record = RunRecord({"lr": 0.1, "batch_size": 8, "seed": 0}, "t1", "finished", {"train/loss": points})
    tracker.write_runs(sweep, [record])
    tracker.close()


def command(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None:
        raise done.exception
    return done.output


@pytest.mark.slow
def test_whoever_is_not_let_in_is_told_why(server: MlflowServer, log_in: Callable[..., None]) -> None:
    log_in(ADMIN)
    write(server.uri, "s1")
    number = MlflowClient(server.uri).get_experiment_by_name(PROJECT).experiment_id
    users = AuthServiceClient(server.uri)
    for user in ("reader", "stranger"):
        users.create_user(user, password(user))
    users.grant_user_permission("reader", "experiment", number, "READ")

    tries: dict[str, Callable[[str], object]] = {
        "read": lambda uri: collect(PROJECT, uri=uri),
        "write": lambda uri: write(uri, "s2"),
        "ui": lambda uri: command("ui", "--uri", uri),
        "doctor": lambda uri: command("doctor", "--uri", uri),
    }
    for credentials in ((None, None), (ADMIN, "guessed")):
        log_in(*credentials)
        for name, attempt in tries.items():
            with pytest.raises(SurgeError, match=NO_LOGIN) as refused:
                attempt(server.uri)
            assert "MLFLOW_TRACKING_USERNAME" in str(refused.value), name
            assert "guessed" not in str(refused.value), name

    log_in("stranger")
    for name in ("read", "write"):
        with pytest.raises(SurgeError, match=NO_PERMISSION) as refused:
            tries[name](server.uri)
        assert "Ask its administrator" in str(refused.value)
    # MLflow does not say that there are experiments which a user may not see.
    assert "none that this user may see" in command("ui", "--uri", server.uri)
    assert "0 runs in 0 experiments" in command("doctor", "--uri", server.uri)

    log_in("reader")
    assert len(collect(PROJECT, uri=server.uri).runs) == 1
    with pytest.raises(SurgeError, match=NO_PERMISSION):
        write(server.uri, "s2")

    log_in(None)
    address = server.uri.replace("://", f"://{ADMIN}:{password(ADMIN).replace(' ', '%20')}@")
    write(address, "s2")
    assert len(collect(PROJECT, uri=address).runs) == 1
    said = command("ui", "--uri", address) + command("doctor", "--uri", address)
    assert "sweep grid" in said
    assert "does not say a version" not in said
    assert "password" not in said
