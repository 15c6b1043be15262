"""How W&B's client is set in this process: its server, its credentials, its quiet.

All of it is asked of the client's own functions, so that whatever `wandb` itself would use is used here.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require

#: No key is shorter, and replacing a short word would garble a message.
_SHORTEST_SECRET = 8
_QUIET_TERMINAL = SimpleNamespace(silent=False, show_info=False, show_warnings=True, show_errors=True)

#: Settings that keep a run of ours to the record: no capture of the terminal, no system metrics, no files of code.
RECORD_ONLY: Mapping[str, object] = {
    "silent": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "disable_job_creation": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "finish_timeout_raises": True,
}


def settings() -> Any:
    """The client's settings in this process: what the environment and its settings files say.

    Raises:
        TrackerError: a setting that the client does not take.
    """
    setup = require("wandb.sdk.wandb_setup", "wandb")
    try:
        return setup.singleton().settings
    except ValueError as error:
        raise TrackerError(
            f"W&B's client does not take its settings: {' '.join(str(error).split())}.",
            "Mend the WANDB_ variable or the settings file that it names.",
        ) from error


def host() -> str:
    """The address of the configured server; may hold credentials, see `shown`."""
    wandb = require("wandb", "wandb")
    return str(wandb.env.get_base_url(settings().base_url)).rstrip("/")


def shown(address: str) -> str:
    """An address without credentials.

    >>> shown("https://me:secret@wandb.example/x")
    'https://wandb.example/x'
    """
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def credentials() -> Any:
    """The client's own record of what opens the configured server, or None; asks no server and no user.

    Raises:
        TrackerError: the address of the server is none that the client takes.
        wandb.errors.AuthenticationError: a key that is malformed.
    """
    wbauth = require("wandb.sdk.lib.wbauth", "wandb")
    try:
        return wbauth.authenticate_session(
            host=host(), source="surge-sweeps", prompt=False, update_session=False
        )
    except ValueError as error:
        raise TrackerError(
            f"the address of the W&B server cannot be used: {' '.join(str(error).split())}.",
            "Mend WANDB_BASE_URL.",
        ) from error


def hide_key(text: str) -> str:
    """The text without the key, plain or as the client sends it: a last guard for messages of others."""
    wandb = require("wandb", "wandb")
    try:
        key = getattr(credentials(), "api_key", None)
    except (TrackerError, wandb.errors.AuthenticationError):
        key = None
    for secret in (key, os.environ.get("WANDB_API_KEY")):
        if secret and len(secret) >= _SHORTEST_SECRET:
            sent = base64.b64encode(f"api:{secret}".encode()).decode()
            text = text.replace(secret, "***").replace(sent, "***")
    return text


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing of the client's own on the terminal meanwhile, neither its progress nor who is logged in; errors stay."""
    wandb = require("wandb", "wandb")
    try:
        with changed({"silent": True}):
            wandb.termsetup(_QUIET_TERMINAL, None)
            yield
    finally:
        wandb.termsetup(settings(), None)


def end() -> None:
    """End W&B's own process and the way to it; a process that has died already is no matter.

    Left to Python's exit, its death would end this program with a traceback.
    """
    wandb = require("wandb", "wandb")
    with suppress(OSError, mailbox_closed()):
        wandb.teardown()


def mailbox_closed() -> type[Exception]:
    """What the client raises when W&B's own process, which does its requests, has died; none of `wandb.errors`."""
    mailbox = require("wandb.sdk.mailbox", "wandb")
    found: type[Exception] = mailbox.MailboxClosedError
    return found


@contextmanager
def changed(changes: Mapping[str, Any]) -> Iterator[None]:
    """Some settings changed for a while: an API object copies them when it is made, the display looks at them."""
    current = settings()
    before = {name: getattr(current, name) for name in changes}
    for name, value in changes.items():
        setattr(current, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(current, name, value)
