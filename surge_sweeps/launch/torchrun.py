"""The command that runs a trial as several processes, on one node or more, by torchrun."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Sequence

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.plan import Resources


def distributed(command: Sequence[str], resources: Resources, name: str) -> list[str]:
    """`command`, run once a process of the trial; as it is where the trial is one process.

    On one node torchrun starts the processes. On several, SLURM starts a torchrun on each node of the job, and they
    meet on this one, the first.

    Args:
        name: tells the meeting of this task's processes from others on the same nodes.

    Raises:
        SurgeError: several nodes, and this is no job of SLURM's.

    >>> distributed(["python", "train.py"], Resources(), "task")
    ['python', 'train.py']
    >>> distributed(["python", "train.py"], Resources(processes_per_node=2), "task")[1:]
    ['-m', 'torch.distributed.run', '--no-python', '--nproc-per-node=2', '--standalone', 'python', 'train.py']
    """
    if not resources.is_distributed:
        return list(command)
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--no-python",
        f"--nproc-per-node={resources.processes_per_node}",
    ]  # fmt: skip
    if resources.nodes == 1:
        return [*torchrun, "--standalone", *command]
    srun = shutil.which("srun")
    if "SLURM_JOB_ID" not in os.environ or srun is None:
        raise SurgeError(
            f"the trial runs on {resources.nodes} nodes, and only SLURM can give them to it here.",
            "Launch it with --on slurm, or give it one node.",
        )
    nodes = str(resources.nodes)
    host = socket.gethostname()
    # srun does not take this over from sbatch.
    cpus = (
        [f"--cpus-per-task={max(1, resources.cpus_per_task // resources.nodes)}"]
        if resources.cpus_per_task
        else []
    )
    return [
        srun, f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", *cpus,
        *torchrun, f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={host}:{_free_port()}",
        f"--rdzv-id={name}", *command,
    ]  # fmt: skip


def room_command(resources: Resources) -> list[str]:
    """What asks the processes of a trial on several nodes to make room; empty where TERM to the command does.

    `srun` ends its processes at once when it is told TERM; SLURM itself hands the signal to them and spares this one.
    """
    if resources.nodes == 1:
        return []
    return [shutil.which("scancel") or "scancel", "--signal=TERM", os.environ.get("SLURM_JOB_ID", "")]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
