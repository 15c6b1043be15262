"""The way to the server: keys, addresses and failures, each a sentence with the next step, none with the key."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import wandb
from wandb_server import API_KEY, WandbServer

from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.trackers.wandb import client, failures, session
from surge_sweeps.trackers.wandb.client import (
    WandbProject,
    connect,
    is_configured,
    parse_project,
    read_again,
    server_address,
    with_entity,
)


@pytest.mark.parametrize(
    ("text", "project"),
    [
        ("team/digits", WandbProject("team", "digits")),
        ("digits", WandbProject("", "digits")),
        ("team/digits/ab12cd34", WandbProject("team", "digits", "ab12cd34")),
        ("team/digits/sweeps/ab12cd34", WandbProject("team", "digits", "ab12cd34")),
        ("https://wandb.ai/team/digits", WandbProject("team", "digits")),
        ("https://wandb.ai/team/digits/workspace?nw=nwuser", WandbProject("team", "digits")),
        ("https://wandb.ai/team/digits/runs/x1y2/overview", WandbProject("team", "digits")),
        ("https://wandb.ai/team/digits/sweeps/ab12cd34#top", WandbProject("team", "digits", "ab12cd34")),
        ("https://wandb.ai/team/digits/sweeps", WandbProject("team", "digits")),
        ("https://forge.coreweave.com/wandb/team/digits", WandbProject("team", "digits")),
        ("https://wandb.example/wandb/digits", WandbProject("wandb", "digits")),
        ("team/my digits", WandbProject("team", "my digits")),
    ],
)
def test_projects_as_users_name_them(text: str, project: WandbProject) -> None:
    assert parse_project(text) == project


@pytest.mark.parametrize("text", ["", "/", "a/b/c/d", "a//b", "https://wandb.ai/team", "team/x:y", "a\\b"])
def test_what_is_no_project(text: str) -> None:
    with pytest.raises(SurgeError, match="entity/project"):
        parse_project(text)


def fail(monkeypatch: pytest.MonkeyPatch, **environment: str | None) -> str:
    """Connect in a changed environment, as a fresh process would; the message of the error."""
    for name, value in environment.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    wandb.teardown()
    with pytest.raises(TrackerError) as caught:
        connect()
    assert caught.value.hint
    assert API_KEY not in str(caught.value)
    return str(caught.value)


def test_a_key_that_fits(wandb_server: WandbServer) -> None:
    assert is_configured()
    api = connect()
    assert wandb_server.operations.counts() == {"Viewer": 1}
    assert server_address(api) == wandb_server.url
    assert with_entity(api, WandbProject("", "p")) == WandbProject("test-entity", "p")
    assert with_entity(api, WandbProject("team", "p")).path == "team/p"


def test_the_entity_of_the_environment_comes_before_the_users_own(
    wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_ENTITY", "lab")
    assert with_entity(connect(), WandbProject("", "p")).entity == "lab"


def test_no_key(wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    message = fail(monkeypatch, WANDB_API_KEY=None)
    assert "there is no W&B key" in message
    assert "wandb login" in message
    assert not is_configured()
    assert wandb_server.operations.all() == []


def test_a_key_from_the_login_file(
    wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(
        f"machine {wandb_server.url.removeprefix('http://')}\n login user\n password {API_KEY}\n"
    )
    netrc.chmod(0o600)
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(netrc))
    assert is_configured()
    connect()
    monkeypatch.setenv("WANDB_BASE_URL", "https://elsewhere.example")
    assert not is_configured()


def test_a_wrong_key(wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    message = fail(monkeypatch, WANDB_API_KEY="1" * 40)
    assert f"the W&B server {wandb_server.url} does not know your key" in message
    assert "1" * 40 not in message


@pytest.mark.parametrize("key", ["short-key", "no good key with blanks, of more than forty letters"])
def test_a_malformed_key(wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    message = fail(monkeypatch, WANDB_API_KEY=key)
    assert "your W&B key cannot be used" in message
    assert key not in message
    assert is_configured()
    assert wandb_server.operations.all() == []


@pytest.mark.parametrize(("status", "said"), [(401, "does not know your key"), (403, "may not do that")])
def test_a_refused_login(
    wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch, status: int, said: str
) -> None:
    wandb_server.faults.add("Viewer", status)
    assert said in fail(monkeypatch)


def test_a_dead_port_fails_at_once(wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    message = fail(monkeypatch, WANDB_BASE_URL=f"http://user:secret@127.0.0.1:{port}")
    assert f"no W&B server answers at http://127.0.0.1:{port}" in message
    assert "secret" not in message


def test_an_unknown_host(wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no W&B server answers" in fail(monkeypatch, WANDB_BASE_URL="http://no-such-host.invalid")


@pytest.mark.parametrize("address", ["garbage", "http://wandb.ai"])
def test_an_address_that_is_none(
    wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    assert "WANDB" in fail(monkeypatch, WANDB_BASE_URL=address)
    assert is_configured()


def test_a_server_that_takes_the_call_and_says_nothing(
    wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(client.BOUNDS, "x_graphql_timeout_seconds", 1)
    monkeypatch.setitem(client.BOUNDS, "x_graphql_retry_max", 1)
    wandb_server.faults.add("Viewer", "slow", times=2, seconds=2)
    assert "does not answer" in fail(monkeypatch)


def test_the_key_is_hidden_in_what_others_say(wandb_server: WandbServer) -> None:
    encoded = "YXBpOjAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA="
    assert session.hide_key(f"Authorization: Basic {encoded}, key {API_KEY}") == (
        "Authorization: Basic ***, key ***"
    )


def test_settings_are_as_before(wandb_server: WandbServer) -> None:
    connect()
    settings = session.settings()
    before = settings.silent
    with session.quiet():
        assert settings.silent
    assert settings.silent == before
    assert settings.x_graphql_retry_max is None


def test_a_read_that_fails_for_a_while_and_one_that_fails_for_good(
    wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "LONGEST_WAIT_S", 0.01)
    calls: list[int] = []

    def read(failing: int) -> str:
        calls.append(1)
        if len(calls) <= failing:
            raise ConnectionResetError(f"connection reset, key {API_KEY}")
        return "read"

    repeats: list[int] = []
    assert read_again("read", lambda: read(2), lambda: repeats.append(1)) == "read"
    assert (len(calls), len(repeats)) == (3, 2)
    calls.clear()
    with pytest.raises(TrackerError, match=r"does not answer \(connection reset, key \*\*\*\)"):
        read_again("read", lambda: read(99))
    assert len(calls) == failures.ATTEMPTS
