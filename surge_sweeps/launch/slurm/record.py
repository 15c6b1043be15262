"""Where a launch's jobs are, written down by `submit`.

A queue that is silent about a job tells of its end only on the cluster that has it, and only to the user whose it is:
anywhere else silence says nothing, and a task taken for ended would be run twice.
"""

from __future__ import annotations

import json
import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from surge_sweeps.errors import SurgeError
from surge_sweeps.files import write_text
from surge_sweeps.launch.folder import Launch

_FILE = "slurm.json"
_CLUSTER_NAME = re.compile(r"^ClusterName\s*=\s*(\S+)", re.MULTILINE)
_JOB_ID = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True)
class Record:
    """What is known of a launch's jobs.

    Attributes:
        cluster: its name. user: id of the one who submitted them. jobs: an array's job id -> the task it begins with;
            of a launch that was killed while it submitted, one may be missing.
    """

    cluster: str
    user: int
    jobs: Mapping[str, int] = field(default_factory=dict)

    def write(self, launch: Launch) -> None:
        """Leave it in the launch's folder."""
        write_text(launch.folder / _FILE, json.dumps(asdict(self)))

    def check(self, cluster: str) -> None:
        """Raise `SurgeError` where the cluster that answers is not the jobs', or this process's user not theirs."""
        if cluster != self.cluster:
            raise SurgeError(
                f"its jobs are on the cluster {self.cluster!r}, and the one that answers here is {cluster!r}.",
                "Ask on a login node of that cluster, or let SLURM_CONF name its slurm.conf.",
            )
        if self.user != os.getuid():
            owner = _user_name(self.user)
            raise SurgeError(
                f"its jobs are those of {owner}, and SLURM is asked by {_user_name(os.getuid())}.",
                f"Let {owner} ask.",
            )


def record_of(launch: Launch) -> Record | None:
    """What `submit` wrote down; None where it was killed before, or never called.

    Raises:
        SurgeError: the file cannot be read.
    """
    path = launch.folder / _FILE
    try:
        return _read(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SurgeError(f"{str(path)!r} cannot be read ({type(error).__name__}).") from error


def cluster_name(configuration: str) -> str:
    """The cluster's name, from what `scontrol show config` prints.

    Raises:
        SurgeError: it is not there.

    >>> cluster_name("Configuration data as of x\\nClusterName             = alps\\n")
    'alps'
    """
    found = _CLUSTER_NAME.search(configuration)
    if found is None:
        raise SurgeError(
            "SLURM's controller does not say its cluster's name.", "Look at: scontrol show config"
        )
    return found.group(1)


def job_id(answer: str) -> str:
    """The job id that `sbatch --parsable` prints, with the name of the cluster behind it where there are several.

    Raises:
        SurgeError: there is none.

    >>> job_id("a word of welcome\\n17;alps\\n")
    '17'
    """
    lines = answer.split("\n")
    found = next((line.partition(";")[0].strip() for line in reversed(lines) if line.strip()), "")
    if not _JOB_ID.fullmatch(found):
        raise SurgeError(
            f"sbatch answered {answer[:200]!r}, which is no job id.", "Submit a job by hand to see why."
        )
    return found


def _read(path: Path) -> Record:
    content = json.loads(path.read_text(encoding="utf-8"))
    jobs = {str(job): int(first) for job, first in content["jobs"].items()}
    return Record(str(content["cluster"]), int(content["user"]), jobs)


def _user_name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"the user {user}"
