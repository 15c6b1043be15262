"""The commands that hand a launch to SLURM, as argument lists: no shell and no template ever reads a value of them.

The script that they submit, `element.sh`, is the same for every launch and takes what it needs as arguments. What the
launch relies on is on the command line, where it wins over SBATCH_ variables; those that would hand it to another
cluster or wait for its end are not passed on (see `commands`); others, as SBATCH_PARTITION, count where it is silent.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.slurm.options import SlurmOptions

#: The script of an array's elements.
SCRIPT = Path(__file__).with_name("element.sh")
#: Tasks of one array at most. A power of ten, so that SLURM can write a task's number into the name of its log.
ARRAY_TASKS = 1000
#: Files of this folder of the launch, each named as a task, or `all`, keep a cancelled task from starting again.
CANCELLED_FOLDER = "cancelled"
_LAUNCH_NAME = re.compile(r"surge-[0-9]{8}-[0-9]{6}-[0-9a-f]{4}(-[0-9]+)?")
_TETHER = Path(__file__).parent.with_name("tether.py")


class Array(NamedTuple):
    """Tasks that are one job array: its elements count from 0, the tasks from `first`, a multiple of 10^`digits`."""

    first: int
    size: int
    digits: int = 0


def cut_arrays(tasks: int, largest: int = ARRAY_TASKS) -> list[Array]:
    """Cut tasks into arrays of `largest` tasks at most.

    >>> cut_arrays(24)
    [Array(first=0, size=24, digits=0)]
    >>> cut_arrays(24, 15)
    [Array(first=0, size=10, digits=1), Array(first=10, size=10, digits=1), Array(first=20, size=4, digits=1)]
    """
    largest = min(largest, ARRAY_TASKS)
    if tasks <= largest:
        return [Array(0, tasks)]
    digits = len(str(largest)) - 1
    size = 10**digits
    return [Array(first, min(size, tasks - first), digits) for first in range(0, tasks, size)]


def job_name(launch_id: str, first: int = 0) -> str:
    """What SLURM calls the array that begins with a task; see `first_task`."""
    return f"surge-{launch_id}" if first == 0 else f"surge-{launch_id}-{first}"


def first_task(launch_id: str, name: str) -> int | None:
    """The task that an array begins with, by its name; None where it is none of the launch.

    >>> first_task("x-1", "surge-x-1"), first_task("x-1", "surge-x-1-2000"), first_task("x-1", "surge-x-10")
    (0, 2000, None)
    """
    own = job_name(launch_id)
    rest = name.removeprefix(f"{own}-")
    if name == own:
        return 0
    return int(rest) if name != rest and rest.isascii() and rest.isdigit() else None


def is_name_of_launch(name: str) -> bool:
    """Whether SLURM calls the arrays of a launch so, of whichever.

    >>> is_name_of_launch("surge-20261122-181500-1a2b-2000"), is_name_of_launch("surge-test")
    (True, False)
    """
    return _LAUNCH_NAME.fullmatch(name) is not None


def sbatch_command(
    launch: Launch, options: SlurmOptions, array: Array, after: str | None = None
) -> list[str]:
    """The arguments that submit an array.

    Args:
        after: the job id of an array that must have ended before this one begins.

    Raises:
        SurgeError: resources that SLURM cannot give, or a folder whose name it cannot write to.
    """
    if after and any(option.startswith("--dep") for option in options.extra):
        raise SurgeError(
            f"so many tasks are several arrays, which wait for one another so that only {options.at_most} tasks are at "
            "work, and cannot wait for another job too.",
            "Leave --dependency or at_most out.",
        )
    plan, limit = launch.plan, f"%{options.at_most}" if options.at_most else ""
    return [
        "sbatch",
        "--parsable",
        f"--job-name={job_name(plan.launch_id, array.first)}",
        f"--array=0-{array.size - 1}{limit}",
        f"--chdir={plan.working_folder}",
        f"--output={_log_pattern(launch, array)}",
        "--open-mode=append",
        "--requeue",
        # Where secrets travel: SLURM keeps the environment where only its own user may look.
        "--export=ALL",
        *([f"--dependency=afterany:{after}"] if after else []),
        *options.arguments(plan.resources),
        str(SCRIPT),
        str(launch.folder),
        str(array.first),
        *_program(launch, options),
    ]


def written(commands: Sequence[Sequence[str]]) -> str:
    """Commands and the script that they submit, for a person: each command can be given to a shell as it is here."""
    return "\n\n".join([*map(_one_argument_a_line, commands), f"# {SCRIPT}:\n{SCRIPT.read_text()}"])


def _one_argument_a_line(command: Sequence[str]) -> str:
    return " \\\n    ".join(map(shlex.quote, command))


def _log_pattern(launch: Launch, array: Array) -> str:
    """The task's log, by the number of its element: SLURM cannot add, but it can fill up digits.

    >>> from surge_sweeps.launch.plan import Plan
    >>> launch = Launch(Plan("x", "p", "mlflow", None, Path(), (), ()), Path("/90%a"))
    >>> _log_pattern(launch, Array(0, 24)), _log_pattern(launch, Array(2000, 24, 3))
    ('/90%%a/logs/%a.log', '/90%%a/logs/2%3a.log')
    """
    folder = str(launch.log_file(0).parent)
    if "\\" in folder or not folder.isprintable():
        raise SurgeError(
            f"SLURM cannot write into a folder of this name: {folder!r}.",
            "Launch from a folder without backslashes and control characters in its path.",
        )
    number = f"{array.first // 10**array.digits}%{array.digits}a" if array.first else "%a"
    return f"{folder.replace('%', '%%')}/{number}.log"


def _program(launch: Launch, options: SlurmOptions) -> Iterator[str]:
    """What `element.sh` is told to run."""
    run_task = ("-m", "surge_sweeps.launch.run_task")
    if options.container_image is None:
        python = options.python or sys.executable
        if not Path(python).is_absolute():
            raise SurgeError(f"python is {python!r}.", "Give its whole path, as the nodes see it.")
        yield from (str(_TETHER), python, *run_task)
        return
    if launch.plan.resources.nodes > 1:
        raise SurgeError(
            "a trial on several nodes cannot run in a container here.",
            "Install the package in a folder that every node sees, and leave the image out.",
        )
    folder = str(launch.plan.working_folder)
    if set(folder) & set(",:"):
        raise SurgeError(
            f"a container cannot be shown a folder of this name: {folder!r}.",
            "Launch from a folder without commas and colons in its path.",
        )
    cpus = launch.plan.resources.cpus_per_task
    yield from (
        "", "srun", "--ntasks=1", *([f"--cpus-per-task={cpus}"] if cpus else []),
        f"--container-image={options.container_image}",
        f"--container-mounts={folder}:{folder}", f"--container-workdir={folder}",
        options.python or "python", *run_task,
    )  # fmt: skip
