"""A tracking server from outside: its age, and whether it takes the name that it is called by."""

from __future__ import annotations

from importlib import metadata

from surge_sweeps.trackers.mlflow.access import host_remedy
from surge_sweeps.trackers.mlflow.doctor.finding import Finding
from surge_sweeps.trackers.mlflow.server_probe import ServerLook
from surge_sweeps.trackers.mlflow.uri import display_uri


def server_findings(uri: str, look: ServerLook) -> list[Finding]:
    """What is wrong with a server, by what it says of itself."""
    shown = display_uri(uri)
    if look.refused_host is not None:
        return [
            Finding(
                "host-refused",
                f"The server refuses the host name {look.refused_host!r}.",
                "Neither its pages nor this tool can read anything under that name.",
                host_remedy(look.refused_host),
            )
        ]
    found: list[Finding] = []
    if look.version is None:
        found.append(
            Finding(
                "no-version",
                f"What answers at {shown} does not say a version of MLflow.",
                "It is a very old MLflow, a proxy in front of one, or another program.",
                "See that the address is the one under which MLflow's own pages open.",
                is_fault=False,
            )
        )
    elif not look.has_bulk_history:
        found.append(
            Finding(
                "old-server",
                f"The server is MLflow {look.version}, which cannot send the points of many runs at once.",
                "Reading takes a request for every run and metric, several times as long.",
                "Whoever runs it: pip install --upgrade mlflow, and mlflow db upgrade on its store.",
            )
        )
    own = installed_version()
    if look.version is not None and own is not None and _major(look.version) != _major(own):
        older, newer = ("server", "client") if _major(look.version) < _major(own) else ("client", "server")
        found.append(
            Finding(
                "version-mismatch",
                f"The server is MLflow {look.version} and the client here is {own}.",
                "MLflow keeps a client and a server working together only within one major version.",
                f"Bring the {older} to the version of the {newer}: pip install 'mlflow=="
                f"{_major(own if newer == 'client' else look.version)}.*'.",
            )
        )
    return found


def installed_version() -> str | None:
    """The version of MLflow installed here, whole or skinny; None without one."""
    for name in ("mlflow", "mlflow-skinny"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _major(version: str) -> int:
    digits = version.partition(".")[0]
    return int(digits) if digits.isdigit() else 0
