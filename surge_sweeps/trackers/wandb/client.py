"""The way to a W&B server: the public API, quiet, its failures as sentences; and how users name a project.

The key comes from the environment or from `wandb login`, never from an argument, and never enters a message.
"""

from __future__ import annotations

import importlib.util
import re
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.probe import connection_failure
from surge_sweeps.trackers.wandb import session
from surge_sweeps.trackers.wandb.failures import read_again, wandb_errors

__all__ = [
    "WandbProject",
    "connect",
    "is_configured",
    "parse_project",
    "read_again",
    "server_address",
    "wandb_errors",
    "with_entity",
]

#: Bounds for W&B's own process, which does the requests: it ends them itself, and says so. (Its defaults hold a
#: download for hours where a server is down.) What the user has set stays.
BOUNDS: dict[str, float] = {
    "x_graphql_timeout_seconds": 20,
    "x_graphql_retry_max": 2,
    "x_graphql_retry_wait_max_seconds": 20,
    "x_file_transfer_timeout_seconds": 600,
    "x_file_transfer_retry_max": 3,
    "x_file_transfer_retry_wait_max_seconds": 20,
}
#: Seconds after which the API here stops waiting for that process: a last resort. With wandb 0.31 the process hangs at
#: its end, and Python's exit with it, about once in seven times that a request was given up from here.
_LAST_RESORT_S = 600

_ENTITY = r"[\w.\-]+"
_PROJECT = r"[^/\\#?%:]+"
_PATH = re.compile(rf"(?:({_ENTITY})/)?({_PROJECT})(?:/(?:sweeps/)?([\w\-]+))?/?")
#: The part of a project's address that names a page of it, not a sweep.
_PAGE = re.compile(r"/(workspace|overview|table|runs|sweeps|reports|reportlist|artifacts|groups|jobs)(/.*)?$")
#: The one host whose addresses have a part in front of the entity.
_PREFIXED_HOST, _PREFIX = "forge.coreweave.com", "wandb/"


class WandbProject(NamedTuple):
    """What a user names: a project, or one sweep of it. An empty entity is the user's default one."""

    entity: str
    project: str
    sweep: str | None = None

    @property
    def path(self) -> str:
        """As W&B's API takes a project."""
        return f"{self.entity}/{self.project}" if self.entity else self.project


def parse_project(text: str) -> WandbProject:
    """Read `project`, `entity/project`, `entity/project/sweep` or the address of a project or sweep.

    Raises:
        SurgeError: the text is none of these.

    >>> parse_project("team/digits"), parse_project("https://wandb.example/team/digits/sweeps/ab12").sweep
    (WandbProject(entity='team', project='digits', sweep=None), 'ab12')
    >>> parse_project("digits").path, parse_project("https://wandb.example/team/my%20digits/workspace?nw=1").project
    ('digits', 'my digits')
    """
    path, is_address = text.strip(), False
    if path.startswith(("http://", "https://")):
        parts = urlsplit(path)
        path, is_address = unquote(parts.path).strip("/"), True
        if parts.hostname == _PREFIXED_HOST:
            path = path.removeprefix(_PREFIX)
        if not re.search(r"/sweeps/[^/]+$", path):
            path = _PAGE.sub("", path)
    found = _PATH.fullmatch(path)
    if found is None or (is_address and not found[1]):
        raise SurgeError(
            f"{text!r} is no W&B project.", "Write entity/project, or entity/project/SWEEP_ID for one sweep."
        )
    return WandbProject(found[1] or "", found[2], found[3])


def is_configured() -> bool:
    """Whether there are credentials for the configured W&B host; asks no server, and never the user.

    A key or an address that is there but malformed counts: `connect` then says what is wrong with it.
    """
    if importlib.util.find_spec("wandb") is None:
        return False
    wandb = require("wandb", "wandb")
    try:
        return session.credentials() is not None
    except (TrackerError, wandb.errors.AuthenticationError):
        return True


def connect() -> Any:
    """W&B's public API (`wandb.Api`), its credentials checked.

    Raises:
        MissingExtraError: wandb is not installed.
        TrackerError: no key, a malformed or wrong one, or the server is away.
    """
    wandb = require("wandb", "wandb")
    with wandb_errors("reached"):
        server = session.host()
        if session.credentials() is None:
            raise TrackerError(
                f"there is no W&B key for {session.shown(server)}.",
                "Log in with `wandb login`, or set WANDB_API_KEY.",
            )
        _probe(server)
        settings = session.settings()
        unset = {name: bound for name, bound in BOUNDS.items() if getattr(settings, name) is None}
        with session.changed(unset):
            return wandb.Api(timeout=_LAST_RESORT_S)


def with_entity(api: Any, project: WandbProject) -> WandbProject:
    """The project with its entity named: WANDB_ENTITY, else the user's default one.

    Raises:
        TrackerError: there is no default entity, or the server is away.
    """
    if project.entity:
        return project
    entity = api.settings["entity"] or read_again("read", lambda: api.default_entity)
    if not entity:
        raise TrackerError(
            f"W&B knows no default entity for your key, and {project.project!r} names none.",
            "Write entity/project.",
        )
    return project._replace(entity=str(entity))


def server_address(api: Any) -> str:
    """The address of the server, without credentials."""
    return session.shown(str(api.settings["base_url"]))


def _probe(address: str) -> None:
    """Refuse a server that nothing answers for at once: W&B's client would try for as long as it may.

    A server behind a proxy is not probed.

    Raises:
        TrackerError: no connection within five seconds.
    """
    if (error := connection_failure(address)) is not None:
        raise TrackerError(
            f"no W&B server answers at {session.shown(address)} ({error}).",
            "See that the address is right (WANDB_BASE_URL) and can be reached, then call the same command again.",
        ) from error
