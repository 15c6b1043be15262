"""Calls of SLURM's programs, and what they say in words when they refuse."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.one_line import one_line
from surge_sweeps.launch.programs import TETHER

#: A controller that is busy may let its clients wait for a minute.
TIMEOUT_SECONDS = 180
#: Kept from the environment of a job: where the cluster is.
_CLUSTER = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
#: Not passed on: to ask another cluster than the jobs are on, or to wait for their end; and what a user wants to see or
#: end by default, which would hide jobs of a launch from us.
_NOT_OURS = ("SBATCH_CLUSTERS", "SBATCH_WAIT", "SLURM_CLUSTERS")
_DEFAULTS = ("SQUEUE_", "SCANCEL_", "SACCT_", "SCONTROL_")
_SPEAKER = re.compile(r"^(sbatch|squeue|scancel|scontrol|sacct|sinfo|slurm_\w+)( error)?: (error: |fatal: )?")
_NODES = "Ask for less: sinfo -o '%P %D %c %m %G' lists the nodes' cores, memory and GPUs."
_HINTS: Mapping[str, str] = {
    "node configuration": _NODES,
    "memory specification": _NODES,
    "partition": "sinfo -o '%P %a %l' lists the partitions and their time limits.",
    "feature": "sinfo -o '%P %f' lists what a constraint may name.",
    "account": "sacctmgr show associations user=$USER lists your accounts and their QOS.",
    "qos": "sacctmgr show associations user=$USER lists your accounts and their QOS.",
    "unrecognized option": "Leave it out; --container-image needs the plugin pyxis on the cluster.",
    "configuration source": "Launch on a login node of the cluster, or say with SLURM_CONF where its slurm.conf is.",
}
_HINT = "--dry-run shows the command, to be tried by hand."


class SlurmRefusedError(SurgeError):
    """A program of SLURM ended with an error."""


def call(command: Sequence[str], *, tied: bool = False) -> str:
    """Run a program of SLURM; returns what it prints.

    Args:
        tied: it ends with this process, also where that is killed.

    Raises:
        SlurmRefusedError: it fails. SurgeError: it is not installed, or the controller does not answer.
    """
    program = command[0]
    path = shutil.which(program) if tied else None
    try:
        done = subprocess.run(
            # One that is not there is told below.
            command if path is None else [*TETHER, str(os.getpid()), path, *command[1:]],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise SurgeError(
            f"SLURM is not installed here: there is no {program!r}.",
            "Launch on a login node of the cluster, or with --on local.",
        ) from error
    except OSError as error:
        raise SurgeError(f"{program} cannot be started: {error.strerror or error}.") from error
    except subprocess.TimeoutExpired as error:
        raise SurgeError(
            f"SLURM's controller did not answer {program} within {TIMEOUT_SECONDS} s.", "Try again later."
        ) from error
    if done.returncode != 0:
        said = spoken(done.stderr or done.stdout) or f"it ended with exit code {done.returncode}"
        raise SlurmRefusedError(f"{program} refused: {said}.", _hint(said))
    return done.stdout


def spoken(text: str) -> str:
    """What a program said, in one line.

    >>> spoken("sbatch: error: invalid partition specified: x\\nsbatch: error: Batch job submission failed\\n")
    'invalid partition specified: x; Batch job submission failed'
    """
    lines = (_SPEAKER.sub("", one_line(line)).rstrip(".") for line in text.splitlines())
    return "; ".join(dict.fromkeys(line for line in lines if line and not line.startswith('Try "')))


def in_batches(items: Iterable[str], size: int = 500) -> Iterable[list[str]]:
    """Arguments, so many a call: a command line may not be of any length."""
    all_items = list(items)
    return (all_items[start : start + size] for start in range(0, len(all_items), size))


def _hint(said: str) -> str:
    return next((hint for word, hint in _HINTS.items() if word.lower() in said.lower()), _HINT)


def _environment() -> Mapping[str, str]:
    """This process's environment, without what the job says of itself in which it runs, and what is not ours."""
    inside = "SLURM_JOB_ID" in os.environ
    return {
        name: value
        for name, value in os.environ.items()
        if not (name in _NOT_OURS or name.startswith(_DEFAULTS))
        and not (inside and name.startswith("SLURM_") and name not in _CLUSTER)
    }
