"""The local engine: worker processes on this machine, which end with the launch.

Trials of the built-in trainer go to the workers as packs and train together; trials of a user's own script run as one
process each.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Literal

from surge_sweeps.curves import Status
from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.base import TaskState
from surge_sweeps.launch.command import shown_command
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.gpus import take_gpus
from surge_sweeps.launch.held import holder
from surge_sweeps.launch.local_crew import LocalCrew, Phase, run_task_command
from surge_sweeps.launch.slots import available_cores, make_slots
from surge_sweeps.launch.torchrun import distributed
from surge_sweeps.trackers.base import Tracker

_NOT_HERE = "this process did not launch it, and what runs here ends with the launch"


class RecordedLocal:
    """The local engine as a later process meets it, which finds of an earlier launch no more than what was printed."""

    name = "local"
    outlives_launch = False
    poll_seconds = 0.2

    def describe(self, launch: Launch) -> str:
        """See `Launcher.describe`."""
        return "\n".join([f"launch {launch.plan.launch_id} on this machine", *_described_tasks(launch)])

    def submit(self, launch: Launch) -> None:
        """Raises `SurgeError`: a launch on this machine is not taken up again."""
        raise SurgeError(f"the launch {launch.plan.launch_id} ended with its process.", "Launch again.")

    def status(self, launch: Launch) -> Mapping[int, TaskState]:
        """See `Launcher.status`: by the word of its tasks, and whether its process, or a program of it, still lives."""
        is_at_work = holder(launch.folder) is not None
        return {task: self._state(launch, task, is_at_work) for task in range(len(launch.plan.tasks))}

    def _state(self, launch: Launch, task: int, is_at_work: bool) -> TaskState:
        if (end := launch.end_of(task)) is not None:
            return TaskState("failed", end.why or _NOT_HERE) if end.exit_code else TaskState("ended")
        if not is_at_work:
            return TaskState("failed", _NOT_HERE)
        return TaskState("running" if launch.log_file(task).exists() else "waiting")

    def cancel(self, launch: Launch, tasks: Collection[int] | None = None) -> None:
        """See `Launcher.cancel`.

        Raises:
            SurgeError: the launch is at work in another process, which alone can end it.
        """
        if (process := holder(launch.folder)) is not None:
            raise SurgeError(
                f"the launch {launch.plan.launch_id} is at work on this machine, started by the process {process}.",
                f"End it there with Ctrl-C, or by: kill {process}",
            )

    def logs(self, launch: Launch, task: int) -> str:
        """See `Launcher.logs`."""
        return launch.log_text(task)


class LocalLauncher(RecordedLocal):
    """Runs trials on this machine, in the background of this process.

    Args:
        store: where their runs go, open. It is used from another thread between `submit` and the end of the tasks.
        agents: tasks at a time. Default: one per GPU and share of it where GPUs are handed out; else one per core for
            the built-in trainer, and one for a user's script, which may well use all cores or the one GPU itself.
        gpus: hand out so many of this machine's GPUs, or `"all"`; 0: hide them; None: leave them to the programs.
        trials_per_gpu: so many tasks share each.
        pin_cpus: bind each task to so many cores of its own (Linux). Default: the `cpus_per_task` of the launch.

    Raises:
        SurgeError: a number that cannot be, or more GPUs than this machine has.

    Attributes:
        results: trial id -> how it ended, of the trials that this launcher brought to a result.
    """

    def __init__(
        self,
        store: Tracker,
        agents: int | None = None,
        gpus: int | Literal["all"] | None = None,
        trials_per_gpu: int = 1,
        pin_cpus: int | None = None,
    ) -> None:
        for what, number in (("agents", agents), ("trials per GPU", trials_per_gpu), ("cores", pin_cpus)):
            if number is not None and number < 1:
                raise SurgeError(f"the number of {what} is {number}.", "It must be 1 or more.")
        self._store = store
        self._agents = agents
        self._trials_per_gpu = trials_per_gpu
        self._pin_cpus = pin_cpus
        self._gpus = None if gpus is None else take_gpus(None if gpus == "all" else gpus)
        self._crews: dict[str, LocalCrew] = {}

    @property
    def results(self) -> Mapping[str, Status]:
        """Trial id -> how it ended, of the trials that this launcher brought to a result."""
        return {
            trial: status for crew in self._crews.values() for trial, status in crew.board.results.items()
        }

    def describe(self, launch: Launch) -> str:
        """See `Launcher.describe`."""
        lines = [f"launch {launch.plan.launch_id} on this machine, in {launch.plan.working_folder}"]
        for phase in self._phases(launch):
            lines += [f"{len(phase.tasks)} tasks, {len(phase.slots)} at a time:"]
            lines += [f"  place {number}: {slot}" for number, slot in enumerate(phase.slots)]
        return "\n".join([*lines, *_described_tasks(launch)])

    def submit(self, launch: Launch) -> None:
        """See `Launcher.submit`."""
        crew = LocalCrew(launch, self._phases(launch), self._store)
        self._crews[launch.plan.launch_id] = crew
        crew.start()

    def status(self, launch: Launch) -> Mapping[int, TaskState]:
        """See `Launcher.status`.

        Raises:
            TrackerError: the store is away. SurgeError: the scripts cannot work. Both once, and all tasks end with it.
        """
        crew = self._crews.get(launch.plan.launch_id)
        if crew is None:
            return super().status(launch)
        crew.board.check()
        return crew.board.states

    def cancel(self, launch: Launch, tasks: Collection[int] | None = None) -> None:
        """See `Launcher.cancel`."""
        crew = self._crews.get(launch.plan.launch_id)
        if crew is not None:
            crew.board.cancel(tasks)

    def kill(self) -> None:
        """End everything that it runs at once, without asking; done by itself when this process ends."""
        for crew in self._crews.values():
            crew.kill()

    def _phases(self, launch: Launch) -> list[Phase]:
        plan = launch.plan
        asked = [
            name for name in ("time_limit_minutes", "memory_gb") if getattr(plan.resources, name) is not None
        ]
        if asked:
            raise SurgeError(
                f"nothing on this machine keeps a trial to {' and '.join(asked)}.",
                "Leave it out, or launch with --on slurm, ray or kubernetes.",
            )
        numbers = range(len(plan.tasks))
        scripts = [
            task
            for task in numbers
            if plan.tasks[task].kind == "trial" and not plan.sweep_of(task).is_builtin
        ]
        others = [task for task in numbers if task not in set(scripts)]
        return [
            self._phase(launch, tasks, one_per_core=tasks is others) for tasks in (others, scripts) if tasks
        ]

    def _phase(self, launch: Launch, tasks: list[int], *, one_per_core: bool) -> Phase:
        resources = launch.plan.resources
        each = resources.gpus_per_task or 1.0
        pinned = self._pin_cpus or resources.cpus_per_task
        gpus = self._granted(resources.gpus_per_task)
        size = self._agents
        if size is None and not gpus:
            cores = available_cores() // (pinned or 1)
            size = max(1, cores // resources.processes_per_node) if one_per_core else 1
        # A GPU that is shared without a fraction given is shared evenly.
        share = each / self._trials_per_gpu if each <= 1 else each
        slots = make_slots(size, gpus, share, pinned)[: len(tasks)]
        return Phase(tasks, slots, pinned or max(1, available_cores() // len(slots)))

    def _granted(self, gpus_per_task: float) -> list[str] | None:
        if gpus_per_task == 0:
            return self._gpus
        # GPUs that the tasks are given are asked for, whether or not the launcher was told how many.
        return self._all_gpus if self._gpus is None else self._gpus

    @cached_property
    def _all_gpus(self) -> list[str]:
        return take_gpus(None)


def _described_tasks(launch: Launch) -> Iterable[str]:
    plan = launch.plan
    for number, task in enumerate(plan.tasks):
        label = f"task {number}: {plan.label_of(number)}"
        if task.kind == "pack":
            yield f"{label}, trained together in a worker process"
        elif task.kind == "trial" and not plan.sweep_of(number).is_builtin:
            (trial,) = plan.trials_of(number)
            command = distributed(shown_command(plan.sweep_of(number), trial), plan.resources, str(number))
            yield f"{label}\n    {shlex.join(command)}"
        else:
            yield f"{label}\n    {shlex.join(run_task_command(launch, number))}"
