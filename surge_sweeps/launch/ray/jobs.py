"""The Jobs API of a Ray cluster, over HTTP: https://docs.ray.io/en/latest/cluster/running-applications/job-submission.

Ray's own client waits for ever for a head that does not answer, lets RAY_ADDRESS overrule the address that it is given,
and needs all of Ray where the launch is made; the API itself is four addresses.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote, urlsplit

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.one_line import one_line

TIMEOUT_SECONDS = 20.0
#: Before a cluster is used it is asked whether it is there at all, which takes a living one no time.
FIRST_TIMEOUT_SECONDS = 5.0
#: Before a job whose start was not answered is started once more.
_PAUSE_SECONDS = 1.0
_OVER = ("STOPPED", "SUCCEEDED", "FAILED")


class _NoAnswerError(SurgeError):
    """Nobody answered, or the connection broke."""


class JobState(NamedTuple):
    """How a job stands: Ray's word for it, and Ray's text about it."""

    status: str
    message: str

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is at work any more, or will be."""
        return self.status in _OVER


class JobsClient:
    """Speaks with one cluster. Every method raises `SurgeError` where the cluster does not answer, or refuses.

    Args:
        address: of the dashboard. token: the cluster's, where it asks for one; None: from the environment, as Ray does.
        is_trusted: whether the user named the address; to another one the environment's token is not sent.
    """

    def __init__(self, address: str, token: str | None = None, *, is_trusted: bool = True) -> None:
        self.address = address.rstrip("/")
        self._is_trusted = is_trusted
        self._token = token if token is not None else _environment_token() if is_trusted else ""
        # A proxy that the environment names is for what lies outside this machine.
        handlers = [urllib.request.ProxyHandler({})] if _is_loopback(self.address) else []
        self._opener = urllib.request.build_opener(*handlers, _NoRedirect())

    @property
    def has_token(self) -> bool:
        """Whether the cluster is told who asks."""
        return bool(self._token)

    def check(self) -> None:
        """Return where a Ray cluster answers, and take us for one of its users."""
        answer = self._ask("GET", "/api/version", timeout_s=FIRST_TIMEOUT_SECONDS)
        if not isinstance(answer, dict) or "ray_version" not in answer:
            raise SurgeError(
                f"what answers at {self.address} is no Ray dashboard.", "Check the address of the cluster."
            )

    def nodes(self) -> list[dict[str, float]]:
        """What each living node has in all, by Ray's names of resources."""
        answer = self._ask("GET", "/api/v0/nodes?detail=1&limit=10000")
        try:
            rows = answer["data"]["result"]["result"]
            return [dict(row["resources_total"]) for row in rows if row["state"] == "ALIVE"]
        except (KeyError, TypeError, ValueError) as error:
            raise SurgeError(
                f"the Ray cluster at {self.address} gives no list of its nodes.", "Is its Ray older than 2.0?"
            ) from error

    def submit(self, request: Mapping[str, Any]) -> None:
        """Start a job; one of that name that is there already is the same job."""
        for is_last in (False, False, True):
            try:
                self._ask("POST", "/api/jobs/", request)
                return
            except SurgeError as error:
                # Its answer may have been lost on the way back.
                with suppress(SurgeError):
                    if self.state(str(request["submission_id"])) is not None:
                        return
                if is_last or not isinstance(error, _NoAnswerError):
                    raise
            time.sleep(_PAUSE_SECONDS)

    def state(self, name: str) -> JobState | None:
        """How a job stands; None if the cluster knows of none of that name."""
        answer = self._ask("GET", f"/api/jobs/{quote(name, safe='')}", missing_ok=True)
        if answer is None:
            return None
        return JobState(_shown(str(answer.get("status"))), _shown(str(answer.get("message") or "")))

    def stop(self, name: str) -> None:
        """Ask a job to end."""
        self._ask("POST", f"/api/jobs/{quote(name, safe='')}/stop", missing_ok=True)

    def _ask(
        self,
        method: str,
        path: str,
        content: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = TIMEOUT_SECONDS,
        missing_ok: bool = False,
    ) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        body = None if content is None else json.dumps(content, allow_nan=False).encode()
        request = urllib.request.Request(self.address + path, body, headers, method=method)
        try:
            with self._opener.open(request, timeout=timeout_s) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            if error.code == 404 and missing_ok:
                return None
            self._refused(error)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise _NoAnswerError(
                f"no Ray cluster answers at {self.address}: {_shown(text)}.",
                "Check the address (that of its dashboard, port 8265) and that the cluster runs.",
            ) from error
        except ValueError as error:
            raise SurgeError(
                f"what answers at {self.address} is no Ray dashboard.", "Check the address of the cluster."
            ) from error

    def _refused(self, error: urllib.error.HTTPError) -> NoReturn:
        with error:
            text = _shown(error.read().decode("utf-8", errors="replace"))
        if error.code in (401, 403) and not self._is_trusted:
            raise SurgeError(
                f"the Ray cluster at {self.address} asks for a token, and only the launch's folder names that address.",
                f"If the cluster is yours, say so and call again: export RAY_ADDRESS={shlex.quote(self.address)}",
            ) from error
        if error.code in (401, 403):
            given = "refuses its token" if self._token else "asks for a token"
            raise SurgeError(
                f"the Ray cluster at {self.address} {given}.",
                "Set RAY_AUTH_TOKEN_PATH to a file that holds the cluster's token (ray get-auth-token).",
            ) from error
        raise SurgeError(
            f"the Ray cluster at {self.address} refuses ({error.code}): {text}", "See its dashboard."
        ) from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A login page in front of a cluster is no answer of the cluster; the token goes nowhere else."""

    def redirect_request(self, *_: object) -> None:
        """Follow nothing."""
        return


def _environment_token() -> str:
    """The token that Ray's own programs would use; empty without one.

    Raises:
        SurgeError: the file that the environment names cannot be read.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    if not named and (os.environ.get("RAY_AUTH_MODE", "").lower() != "token" or not path.is_file()):
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SurgeError(
            f"the token of the Ray cluster cannot be read: {getattr(error, 'strerror', error)}.",
            "RAY_AUTH_TOKEN_PATH must name a file that holds it.",
        ) from error


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(text: str) -> str:
    """A server's text as one short printable line; what went wrong stands at its end."""
    return one_line(text, keep_end=True)
