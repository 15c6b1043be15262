"""The SLURM engine: a launch is one job array, or a few, of one element a task.

The name of its arrays ties them to a launch, so what was submitted is found however the launching process ended; their
cluster, user and job ids are written down too, so that no other cluster is asked. SLURM's queue tells which elements
are at work, and their own words in the launch's folder how the others ended.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace

from surge_sweeps.errors import SurgeError
from surge_sweeps.files import write_text
from surge_sweeps.launch.base import TaskState
from surge_sweeps.launch.folder import Launch, TaskEnd
from surge_sweeps.launch.one_line import one_line
from surge_sweeps.launch.slurm.accounting import accounted
from surge_sweeps.launch.slurm.commands import call, in_batches
from surge_sweeps.launch.slurm.endings import why_it_failed
from surge_sweeps.launch.slurm.options import SlurmOptions
from surge_sweeps.launch.slurm.queue import Element, elements_of
from surge_sweeps.launch.slurm.record import Record, cluster_name, job_id, record_of
from surge_sweeps.launch.slurm.submission import (
    ARRAY_TASKS,
    CANCELLED_FOLDER,
    cut_arrays,
    job_name,
    sbatch_command,
    written,
)

#: How long what a node wrote to a shared folder may take to be seen here.
FILE_DELAY_SECONDS = 60.0

_CONFIGURATION = ("scontrol", "show", "config")
_LARGEST_ARRAY = re.compile(r"^MaxArraySize\s*=\s*(\d+)", re.MULTILINE)
_EVERY_TASK = "all"
_WHY_CHARACTERS = 1000


class SlurmLauncher:
    """Runs tasks as elements of job arrays; see `Launcher`.

    Needs `sbatch`, `squeue`, `scancel` and `scontrol` where it is called, and a working folder and a Python environment
    that every node sees under the same name. Preempted elements and those of nodes that go down are put back into the
    queue by SLURM, those whose time limit is near by themselves; each goes on from its saved state.

    Args:
        options: what is asked of SLURM; only `describe` and `submit` look at it.
    """

    name = "slurm"
    outlives_launch = True
    poll_seconds = 15.0

    def __init__(self, options: SlurmOptions | None = None) -> None:
        self._options = options or SlurmOptions()
        self._words: dict[tuple[str, int], TaskEnd] = {}
        self._gone_since: dict[tuple[str, int], float] = {}
        self._accounted: dict[tuple[str, int], Element | None] = {}
        self._cluster = ""

    @classmethod
    def of(cls, launch: Launch) -> SlurmLauncher:
        """The engine of a launch that was recorded: its arrays are known by their name."""
        return cls()

    def describe(self, launch: Launch) -> str:
        """The commands and their script. Where several arrays wait for one another, PREVIOUS stands for a job id.

        A cluster that allows no arrays of 1000 elements is handed more, and smaller ones.
        """
        first, *others = cut_arrays(len(launch.plan.tasks))
        after = "PREVIOUS" if self._options.at_most else None
        commands = [sbatch_command(launch, self._options, array, after) for array in others]
        return written([sbatch_command(launch, self._options, first), *commands])

    def submit(self, launch: Launch) -> None:
        """See `Launcher.submit`."""
        # What cannot be asked for is known before the cluster is asked.
        self.describe(launch)
        folder = launch.log_file(0).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SurgeError(
                f"{str(folder)!r} cannot be written: {error.strerror or error}.",
                "Launch from a folder that you may write to.",
            ) from error
        configuration = call(_CONFIGURATION)
        arrays, after = cut_arrays(len(launch.plan.tasks), _largest_array(configuration)), None
        self._cluster = cluster_name(configuration)
        record = Record(self._cluster, os.getuid())
        # Before the first array: a kill from here on leaves a launch of which it is known where it was going.
        record.write(launch)
        try:
            for array in arrays:
                job = job_id(call(sbatch_command(launch, self._options, array, after), tied=True))
                record = replace(record, jobs={**record.jobs, job: array.first})
                record.write(launch)
                after = job if self._options.at_most else None
        except SurgeError:
            # Also where the controller took the job and its answer was lost.
            names = ",".join(job_name(launch.plan.launch_id, array.first) for array in arrays)
            with suppress(SurgeError):
                call(["scancel", "--quiet", f"--user={os.getuid()}", f"--name={names}"])
            raise

    def status(self, launch: Launch) -> Mapping[int, TaskState]:
        """See `Launcher.status`."""
        elements = self._elements(launch)
        states: dict[int, TaskState] = {}
        lost: list[int] = []
        for task in range(len(launch.plan.tasks)):
            element = elements.get(task)
            if element is not None and element.state is not None:
                states[task] = TaskState(element.state)
                self._words.pop((launch.plan.launch_id, task), None)
            elif (word := self._word(launch, task)) is not None:
                states[task] = _failed(word.why) if word.exit_code else TaskState("ended")
            elif element is not None and self._word_may_come(launch, task, element):
                states[task] = TaskState("running")
            else:
                lost.append(task)
        accounts = self._accounts(launch, [task for task in lost if task not in elements])
        for task in lost:
            known = elements.get(task) or accounts.get(task)
            why = why_it_failed(known, cancelled=_is_cancelled(launch, task))
            states[task] = _failed(why)
        return dict(sorted(states.items()))

    def cancel(self, launch: Launch, tasks: Collection[int] | None = None) -> None:
        """See `Launcher.cancel`. SLURM sends TERM, and after its KillWait, 30 s by default, KILL."""
        elements = self._elements(launch)
        alive = {
            task: element
            for task, element in elements.items()
            if element.state is not None and (tasks is None or task in tasks)
        }
        if not alive:
            return
        # Before SLURM is told: an element that is about to go back to the queue looks for it.
        for name in [_EVERY_TASK] if tasks is None else map(str, alive):
            write_text(launch.folder / CANCELLED_FOLDER / name, "")
        jobs = (element.job.partition("_")[0] if tasks is None else element.job for element in alive.values())
        for batch in in_batches(dict.fromkeys(jobs)):
            call(["scancel", "--quiet", *batch])

    def logs(self, launch: Launch, task: int) -> str:
        """See `Launcher.logs`; what SLURM says of the element is among it."""
        return launch.log_text(task)

    def _elements(self, launch: Launch) -> Mapping[int, Element]:
        """Its elements that SLURM still knows; an error where it is not SLURM's to know them."""
        record = record_of(launch)
        if record is None:
            return elements_of(launch.plan.launch_id, os.getuid(), {})
        self._cluster = self._cluster or cluster_name(call(_CONFIGURATION))
        record.check(self._cluster)
        return elements_of(launch.plan.launch_id, record.user, record.jobs)

    def _word(self, launch: Launch, task: int) -> TaskEnd | None:
        """A task's last word; each file is read once."""
        key = (launch.plan.launch_id, task)
        if key not in self._words:
            word = launch.end_of(task)
            if word is None:
                return None
            self._words[key] = word
        return self._words[key]

    def _word_may_come(self, launch: Launch, task: int, element: Element) -> bool:
        """Whether an element that ended by itself may have left a word that is not seen here yet."""
        if element.exit_code not in (0, 1):
            return False
        since = self._gone_since.setdefault((launch.plan.launch_id, task), time.monotonic())
        return time.monotonic() - since < FILE_DELAY_SECONDS

    def _accounts(self, launch: Launch, tasks: Collection[int]) -> Mapping[int, Element]:
        """What the accounts tell of tasks that the queue has forgotten; each is asked after once."""
        launch_id = launch.plan.launch_id
        if any((launch_id, task) not in self._accounted for task in tasks):
            found = accounted(launch_id)
            self._accounted.update({(launch_id, task): found.get(task) for task in tasks})
        known = {task: self._accounted[launch_id, task] for task in tasks}
        return {task: element for task, element in known.items() if element is not None}


def _failed(why: str) -> TaskState:
    """The words are of files and programs: fit for a terminal only from here on."""
    return TaskState("failed", one_line(why, _WHY_CHARACTERS))


def _largest_array(configuration: str) -> int:
    """Elements that the cluster allows an array."""
    found = _LARGEST_ARRAY.search(configuration)
    if found is None:
        return ARRAY_TASKS
    largest = int(found.group(1))
    if largest == 0:
        raise SurgeError("this cluster allows no job arrays.", "Ask its staff to set MaxArraySize.")
    return largest


def _is_cancelled(launch: Launch, task: int) -> bool:
    folder = launch.folder / CANCELLED_FOLDER
    return (folder / _EVERY_TASK).exists() or (folder / str(task)).exists()
