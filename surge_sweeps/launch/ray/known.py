"""The Ray clusters that this user has named on this machine: to these alone goes the cluster's token.

The folder of a launch names a cluster too, and may have come with somebody else's files: a token that is sent to the
address in it would be given away. So the addresses that launches were handed to are listed in the user's home.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

from surge_sweeps.errors import SurgeError

#: Where Ray's own programs look for the address of a cluster.
_VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
_PORTS = {"http": 80, "https": 443}


def list_file() -> Path:
    """Where the addresses are listed, one a line; only its user may read or write it."""
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "surge-sweeps" / "ray-clusters"


def is_known(address: str) -> bool:
    """Whether the user has named an address: in the environment now, or to an earlier launch.

    Raises:
        SurgeError: the list cannot be read, or others may write to it.
    """
    wanted = _normal(address)
    return wanted is not None and (_is_in_environment(wanted) or wanted in _listed())


def note(address: str) -> None:
    """List an address that the user gave; one that is known already stays as it is.

    Raises:
        SurgeError: the list cannot be written.
    """
    wanted = _normal(address)
    if wanted is None or is_known(address):
        return
    path = list_file()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One short write at the end: two launches at a time both get their line.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, f"{wanted}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SurgeError(
            f"the list of your Ray clusters, {str(path)!r}, cannot be written: {error.strerror or error}.",
            f"Let RAY_ADDRESS name this one in its place: export RAY_ADDRESS={wanted}",
        ) from error


def _listed() -> set[str]:
    path = list_file()
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            found = os.fstat(file.fileno())
            lines = file.read().splitlines()
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise SurgeError(
            f"the list of your Ray clusters, {str(path)!r}, cannot be read: {error.strerror or error}."
        ) from error
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SurgeError(
            f"the list of your Ray clusters, {str(path)!r}, may be written by others, who could name any address.",
            f"Look into it, remove what you do not know, and then: chown $USER {path}; chmod 600 {path}",
        )
    return {line.strip() for line in lines}


def _is_in_environment(wanted: str) -> bool:
    return wanted in {_normal(os.environ.get(name, "")) for name in _VARIABLES}


def _normal(address: str) -> str | None:
    """One spelling of an address; None for what is no http address.

    >>> _normal("HTTP://Head:80/"), _normal("ray://head:10001")
    ('http://head:80', None)
    """
    try:
        parts = urlsplit(address)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    if not parts.hostname or port is None or parts.scheme not in _PORTS or "@" in parts.netloc:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}{parts.path.rstrip('/')}"
