"""A server that does not let us in: no such user, no permission, a host name that it was not told of, no TLS.

One wording for reading, writing, the links and the doctor.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.mlflow.uri import display_uri

#: In the answer of MLflow's middleware to a name it was not told of, in small letters; /version answers to any name.
HOST_REFUSED = "invalid host header"
#: What OpenSSL calls an answer that is no TLS at all.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")

_CREDENTIALS_HINT = (
    "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, as its administrator gave"
    " them; then call the same command again."
)
_PERMISSION_HINT = (
    "Ask its administrator for the permission, or see whose credentials are set (MLFLOW_TRACKING_USERNAME,"
    " MLFLOW_TRACKING_TOKEN)."
)


def access_error(uri: str, status: int, text: str) -> TrackerError | None:
    """The error for an answer that lets nobody in; None for every other answer.

    Args:
        uri: the server. status: of HTTP. text: what the server says, already short.
    """
    shown = display_uri(uri)
    if status == 401:
        return TrackerError(
            f"the MLflow server {shown} does not accept the credentials given, or none were.",
            _CREDENTIALS_HINT,
        )
    if status != 403:
        return None
    if HOST_REFUSED in text.lower():
        return refused_host(urlsplit(uri).hostname or "", uri)
    said = " ".join(text.split()).rstrip(".")
    return TrackerError(
        f"the MLflow server {shown} does not let this user do that{f': {said}' if said else ''}.",
        _PERMISSION_HINT,
    )


def without_tls(uri: str, text: str) -> TrackerError | None:
    """The error for an https address whose server speaks plain http; None for every other failure.

    >>> print(without_tls("https://host:5000", "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"))
    the MLflow server https://host:5000 answers without TLS. Use http://host:5000 instead.
    """
    if not uri.startswith("https:") or not any(reason in text for reason in _NO_TLS):
        return None
    shown = display_uri(uri)
    return TrackerError(
        f"the MLflow server {shown} answers without TLS.",
        f"Use {shown.replace('https:', 'http:', 1)} instead.",
    )


def refused_host(name: str, uri: str) -> TrackerError:
    """The error for a server that does not take the name by which the URI calls it."""
    return TrackerError(
        f"the MLflow server {display_uri(uri)} refuses the host name {name!r}.", host_remedy(name)
    )


def host_remedy(name: str) -> str:
    """What whoever runs the server must change; `name`: under which it is to answer.

    >>> print(host_remedy("login01"))
    Whoever runs it starts it with --allowed-hosts 'login01,login01:*,localhost,localhost:*' (and the names used so far)
    and --cors-allowed-origins 'http://login01:PORT', without which its pages stay empty. Or reach it under a name that
    it takes, such as localhost through an SSH tunnel.
    """
    return (
        f"Whoever runs it starts it with --allowed-hosts '{name},{name}:*,localhost,localhost:*' (and the names used"
        f" so far) and --cors-allowed-origins 'http://{name}:PORT', without which its pages stay empty. Or reach it"
        " under a name that it takes, such as localhost through an SSH tunnel."
    )
