"""The disk that a SQLite store lies on: whether other machines share it."""

from __future__ import annotations

import re
from pathlib import Path

from surge_sweeps.trackers.mlflow.doctor.finding import Finding

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|lustre|gpfs|beegfs|ceph|afs|9p|fuse\.(sshfs|ceph|glusterfs|beegfs)"
)


def file_system(path: Path, mounts: str | None = None) -> str:
    """The kind of file system that a file lies on, such as `ext4`; empty where this is not known.

    Args:
        path: the file. mounts: what /proc/self/mountinfo says, which Linux alone has.

    >>> file_system(Path("/data/mlflow.db"), "1 0 0:1 / / rw - ext4 /dev/a rw\\n2 1 0:2 / /data rw - nfs4 server:/x rw")
    'nfs4'
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(errors="replace")
        except OSError:
            return ""
        path = path.resolve()
    best, kind = -1, ""
    for line in mounts.splitlines():
        head, _, tail = line.partition(" - ")
        fields = head.split()
        if len(fields) < 5 or not tail.split():
            continue
        # Spaces in a mount point are written as \040.
        point = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4]))
        # A later mount on the same place covers an earlier one.
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), tail.split()[0]
    return kind


def is_network(system: str) -> bool:
    """Whether several machines share a file system of this kind.

    >>> is_network("nfs4"), is_network("ext4"), is_network("fuse.sshfs")
    (True, False, True)
    """
    return _NETWORK.fullmatch(system) is not None


def network_finding(system: str, journal: str) -> Finding | None:
    """What is wrong with a SQLite file on that kind of file system, kept in that journal mode."""
    if not is_network(system):
        return None
    wal = journal.lower() == "wal"
    return Finding(
        "network-disk",
        f"The SQLite file lies on a network file system ({system})"
        + (" and is in WAL mode, which does not work there." if wal else "."),
        "SQLite's locks do not hold there between machines: two that write at once can damage the file.",
        "Write from one machine alone; for several start a server (`surge-sweep ui --host`) on one of them, or use"
        f" PostgreSQL.{' Leave WAL mode: sqlite3 FILE PRAGMA journal_mode=DELETE.' if wal else ''}",
        is_fault=True,
    )
