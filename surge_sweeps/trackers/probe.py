"""Whether anything listens where a server should be: asked at once, where trackers' own clients try for minutes."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

PROBE_TIMEOUT_S = 5.0


def connection_failure(address: str) -> Exception | None:
    """Why no connection to a server can be made within five seconds; None where one can.

    Only http and https addresses are tried, and none that is reached through a proxy.

    >>> connection_failure("sqlite:///mlflow.db") is None
    True
    """
    try:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return None
        if parts.scheme in getproxies() and not proxy_bypass(parts.hostname):
            return None
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=PROBE_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        return error
    return None
