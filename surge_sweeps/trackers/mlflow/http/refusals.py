"""What an MLflow server's refusal, or its silence, means, and what to do about it."""

from __future__ import annotations

import re
from typing import Any

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.mlflow.access import access_error, without_tls
from surge_sweeps.trackers.mlflow.client import shorten
from surge_sweeps.trackers.mlflow.uri import display_uri, hide_credentials

_TEXT_LIMIT = 200
_BUSY = (429, 503)
_ADDRESS_HINT = (
    "Give the address under which MLflow's own pages open in a browser, with its path if it has one"
    " (MLFLOW_TRACKING_URI)."
)
_LATER_HINT = "See that it runs, or wait a little; then call the same command again."


def refusal(response: Any, uri: str) -> TrackerError:
    """The error for an answer that is no success."""
    shown, status = display_uri(uri), int(response.status_code)
    text = answer_text(response)
    if (error := access_error(uri, status, shorten(text, _TEXT_LIMIT) if text else "")) is not None:
        return error
    if status in _BUSY:
        wait = response.headers.get("Retry-After", "").strip()
        asked = f" and asks to wait {shorten(wait, 40)}{' s' if wait.isdigit() else ''}" if wait else ""
        return TrackerError(
            f"the MLflow server {shown} is busy or closed (HTTP {status}){asked}.", _LATER_HINT
        )
    if status in (404, 405, 501):
        return TrackerError(
            f"no MLflow server answers at {shown} (HTTP {status}{_said(text)}).", _ADDRESS_HINT
        )
    if status >= 500:
        return TrackerError(f"the MLflow server {shown} failed (HTTP {status}{_said(text)}).", _LATER_HINT)
    return TrackerError(
        f"the MLflow server {shown} refuses the request (HTTP {status}{_said(text)}).",
        "See that the address is right and that the server is of MLflow 2 or newer.",
    )


def no_json(response: Any, uri: str) -> TrackerError:
    """The error for an answer of something that is no MLflow server, such as the page of a login."""
    kind = shorten(response.headers.get("Content-Type", "").partition(";")[0] or "no JSON", 40)
    return TrackerError(
        f"what answers at {display_uri(uri)} is no MLflow server: it sent {kind}, as a login page or another"
        " program does.",
        _ADDRESS_HINT,
    )


def unreachable(error: BaseException, uri: str) -> TrackerError:
    """The error for a request that brought no answer at all."""
    requests = require("requests.exceptions", "mlflow")
    shown = display_uri(uri)
    # mlflow raises an error of its own while it handles the one that says why.
    cause: BaseException = error.__cause__ or error.__context__ or error
    if isinstance(cause, requests.SSLError):
        if (plain := without_tls(uri, str(cause))) is not None:
            return plain
        return TrackerError(
            f"the certificate of the MLflow server {shown} is not trusted{_said(_reason(cause, uri))}.",
            "Name the certificate of its authority in MLFLOW_TRACKING_SERVER_CERT_PATH, or mend the address.",
        )
    timeouts = (requests.Timeout, require("urllib3.exceptions", "mlflow").TimeoutError)
    if isinstance(cause, timeouts) or isinstance(_innermost(cause), timeouts):
        return TrackerError(
            f"the MLflow server {shown} does not answer in time.",
            "See that it is well; on a slow one raise MLFLOW_HTTP_REQUEST_TIMEOUT (seconds, 120 by default).",
        )
    if isinstance(cause, requests.ConnectionError | requests.ChunkedEncodingError):
        return TrackerError(
            f"the connection to the MLflow server {shown} broke{_said(_reason(cause, uri))}.", _LATER_HINT
        )
    return TrackerError(f"the MLflow server {shown} cannot be read{_said(_reason(cause, uri))}.", _LATER_HINT)


def answer_text(response: Any) -> str:
    """What the server says in words: the message of its JSON, or a text, but no web page."""
    try:
        found = response.json()
    except ValueError:
        text = response.text
        return "" if "<" in text[:1000] else text.strip()[:_TEXT_LIMIT]
    message = found.get("message") if isinstance(found, dict) else None
    return message[:_TEXT_LIMIT] if isinstance(message, str) else ""


def _said(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return f": {shorten(text, _TEXT_LIMIT)}" if text else ""


def _innermost(error: BaseException) -> BaseException:
    """The cause that urllib3 and requests pack into their own errors."""
    for _ in range(8):
        packed = [getattr(error, "reason", None), *error.args]
        deeper = next((found for found in packed if isinstance(found, BaseException)), None)
        if deeper is None:
            break
        error = deeper
    return error


def _reason(error: BaseException, uri: str) -> str:
    text = hide_credentials(str(_innermost(error)).replace(uri, display_uri(uri)))
    # Names of objects in memory tell nobody anything.
    return re.sub(r"^<?[\w.]+ ?object at 0x[0-9a-f]+>?: |^\w*Connection\([^)]*\): ", "", text)
