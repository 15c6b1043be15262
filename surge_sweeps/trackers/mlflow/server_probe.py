"""What a tracking server says of itself before any client is made: its version, and whether it takes our host name."""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.mlflow.access import HOST_REFUSED, refused_host
from surge_sweeps.trackers.mlflow.http.connection import Server
from surge_sweeps.trackers.mlflow.uri import display_uri, probe_server

_TIMEOUT_S = 10.0
_ANSWER_LIMIT = 2000


@dataclass(frozen=True)
class ServerLook:
    """What is known of a server.

    Attributes:
        version: such as `3.17.2`; None: it does not say, as none before MLflow 1.0 does, and other programs.
        refused_host: the name that it was asked under and does not take; None where it does.
        has_bulk_history: it has the route that sends the points of many runs at once (MLflow 2.0 and later).
    """

    version: str | None
    refused_host: str | None
    has_bulk_history: bool


def look_at_server(uri: str) -> ServerLook:
    """Ask a server; raises `TrackerError` where nothing answers.

    Credentials are sent only where it asks for them, with which it may say its version: a server looks at the name it
    is called by before it looks at who calls.
    """
    probe_server(uri)
    base = display_uri(uri).rstrip("/")
    asked, version = _get(f"{base}/version")
    if asked == 401:
        version = (Server(uri).download("/version") or b"").decode(errors="replace")
    plain = version.strip()
    status, said = _get(f"{base}/ajax-api/2.0/mlflow/metrics/get-history-bulk")
    refused = status == 403 and HOST_REFUSED in said.lower()
    is_version = 0 < len(plain) < 40 and plain[0].isdigit() and plain.replace(".", "").isalnum()
    return ServerLook(
        plain if is_version else None, (urlsplit(base).hostname or "") if refused else None, status != 404
    )


def refuse_wrong_host(uri: str) -> None:
    """Raises `TrackerError` where a server does not take the name by which the URI calls it."""
    name = look_at_server(uri).refused_host
    if name is not None:
        raise refused_host(name, uri)


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            return int(answer.status), answer.read(_ANSWER_LIMIT).decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(_ANSWER_LIMIT).decode(errors="replace")
    except (OSError, ValueError) as error:
        raise TrackerError(
            f"no MLflow server answers at {display_uri(url)} ({error}).",
            "See that the address is right and the server runs, then call the same command again.",
        ) from error
