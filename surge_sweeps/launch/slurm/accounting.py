"""How a job ended that SLURM's queue has forgotten, where the cluster keeps accounts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.slurm.commands import call
from surge_sweeps.launch.slurm.queue import Element
from surge_sweeps.launch.slurm.submission import first_task

_FIELDS = ("JobID", "State", "ExitCode", "JobName")


def accounted(launch_id: str) -> Mapping[int, Element]:
    """Task -> its element by the accounts; empty where the cluster keeps none, or they do not answer."""
    day = f"{launch_id[:4]}-{launch_id[4:6]}-{launch_id[6:8]}"
    command = [
        "sacct", "--noheader", "--parsable2", "--allocations", "--array", f"--starttime={day}",
        f"--format={','.join(_FIELDS)}",
    ]  # fmt: skip
    try:
        answer = call(command)
    except SurgeError:
        # Accounts are a luxury: what they add is a better word for how a task failed.
        return {}
    return read_accounts(launch_id, answer.splitlines())


def read_accounts(launch_id: str, lines: Iterable[str]) -> Mapping[int, Element]:
    """The elements of a launch among the lines of `sacct`.

    >>> read_accounts("x", ["7_3|CANCELLED by 0|0:15|surge-x", "8|COMPLETED|0:0|other"])
    {3: Element(job='7_3', word='CANCELLED', exit_code=None, reason='')}
    """
    found: dict[int, Element] = {}
    for line in lines:
        fields = line.split("|", len(_FIELDS) - 1)
        if len(fields) < len(_FIELDS):
            continue
        job, word, code, name = fields
        first, index = first_task(launch_id, name), job.partition("_")[2]
        exit_code, _, number = code.partition(":")
        if first is not None and index.isdigit() and word:
            ended = int(exit_code) if exit_code.isdigit() and number == "0" else None
            found[first + int(index)] = Element(job, word.split()[0], ended)
    return found
