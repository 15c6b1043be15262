"""What SLURM's queue tells of the elements of a launch, in one question for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from surge_sweeps.launch.base import State
from surge_sweeps.launch.slurm.commands import call
from surge_sweeps.launch.slurm.submission import first_task, is_name_of_launch

#: The job's name comes last: it alone may hold anything.
_FIELDS = ("ArrayJobID", "ArrayTaskID", "State", "exit_code", "Reason", "Name")
#: Nothing comes after these. PREEMPTED is of jobs that SLURM does not put back into the queue.
_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
_WAITING = {
    "CONFIGURING",
    "PENDING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
}


class Element(NamedTuple):
    """How an element stands.

    Attributes:
        job: its array and number, as `scancel` takes them. word: its state in SLURM's word. exit_code: of its script;
            None where it has none. reason: SLURM's word for why it waits or how it ended.
    """

    job: str
    word: str
    exit_code: int | None = None
    reason: str = ""

    @property
    def state(self) -> State | None:
        """Where it is; None where it has ended."""
        if self.word in _ENDED:
            return None
        return "waiting" if self.word in _WAITING else "running"


def elements_of(launch_id: str, user: int, jobs: Mapping[str, int]) -> Mapping[int, Element]:
    """Task -> its element, of those that SLURM still knows: minutes after its end it knows a job no more.

    Args:
        user: id of the one who submitted them. jobs: see `read_elements`.

    Raises:
        SurgeError: SLURM does not answer.
    """
    columns = ",".join(f"{field}:|" for field in _FIELDS)
    # Of one user alone the controller sends no other jobs; --all: also those in partitions that are hidden.
    answer = call(
        ["squeue", "--all", f"--user={user}", "--states=all", "--array", "--noheader", f"--Format={columns}"]
    )
    return read_elements(launch_id, answer.splitlines(), jobs)


def read_elements(
    launch_id: str, lines: Iterable[str], jobs: Mapping[str, int] | None = None
) -> Mapping[int, Element]:
    """The elements of a launch among the lines of `squeue`, by their name or by their job.

    Args:
        jobs: job id of an array -> the task that it begins with, of those that are known.

    >>> read_elements("x", ["7|3|FAILED|35072|NonZeroExitCode|surge-x|", "8|0|RUNNING|0|None|other|"])
    {3: Element(job='7_3', word='FAILED', exit_code=137, reason='NonZeroExitCode')}
    >>> read_elements("x", ["7|3|RUNNING|0|None|renamed|"], {"7": 1000})
    {1003: Element(job='7_3', word='RUNNING', exit_code=0, reason='None')}
    """
    known = jobs or {}
    found: dict[int, Element] = {}
    for line in lines:
        fields = line.removesuffix("|").split("|", len(_FIELDS) - 1)
        if len(fields) < len(_FIELDS):
            continue
        job, index, word, code, reason, name = fields
        first = first_task(launch_id, name)
        # Its user may have given it another name; a job of another launch has only taken over a number.
        if first is None and not is_name_of_launch(name):
            first = known.get(job)
        if first is not None and index.isdigit():
            found[first + int(index)] = Element(f"{job}_{index}", word, _exit_code(code), reason)
    return found


def _exit_code(text: str) -> int | None:
    """From the status that the system gave, or from `CODE:SIGNAL`."""
    code, colon, number = text.partition(":")
    if not code.isdigit() or (colon and not number.isdigit()):
        return None
    status = int(code)
    if colon:
        return None if int(number) else status
    return None if status & 0x7F else status >> 8
