"""What is handed to an engine, frozen: the sweeps, the tasks they are cut into, and where their runs are logged.

A plan is written once, before anything is submitted, and never changed: an engine only hands out its tasks by number
(array index, completion index, Ray task), and the program that runs a task, `run_task`, reads what to do from the plan.
It holds no secret: what a node needs to log in anywhere comes to it by its environment.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from surge_sweeps.errors import SurgeError
from surge_sweeps.sweep import Sweep, Trial

#: One trial; the trials of one batch size, trained together; or one `wandb agent` that asks the server for one cell.
TaskKind = Literal["trial", "pack", "agent"]

_SCHEMA = 1


@dataclass(frozen=True)
class Resources:
    """What each task is given.

    Attributes:
        gpus_per_task: GPUs; a fraction shares one between tasks, where the engine can. cpus_per_task: cores; None
            leaves it to the engine. memory_gb: main memory in GiB; None leaves it to the engine.
        time_limit_minutes: after this the engine ends a task, which saves its state first; None: the engine's own.
        processes_per_node, nodes: a trial of more than one process, or on more than one node, runs under torchrun.
        micro_batch_size: examples that one process holds at once; None: the whole batch, or its share of it.
    """

    gpus_per_task: float = 0
    cpus_per_task: int | None = None
    memory_gb: float | None = None
    time_limit_minutes: int | None = None
    processes_per_node: int = 1
    nodes: int = 1
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise SurgeError(f"{name} is {value}.", f"It must be {least:g} or more.")
        if self.memory_gb is not None and self.memory_gb <= 0:
            raise SurgeError(f"memory_gb is {self.memory_gb}.", "It must be above 0.")

    @property
    def is_distributed(self) -> bool:
        """Whether a trial runs as several processes."""
        return self.processes_per_node > 1 or self.nodes > 1


_LEAST = {
    "gpus_per_task": 0,
    "cpus_per_task": 1,
    "time_limit_minutes": 1,
    "processes_per_node": 1,
    "nodes": 1,
    "micro_batch_size": 1,
}


@dataclass(frozen=True)
class Task:
    """What an engine runs as one.

    Attributes:
        kind: see `TaskKind`. sweep: its number among the plan's sweeps. trials: ids; none for an agent, which is told
            its cell by W&B. agent: W&B's path of the registered sweep that an agent works on.
    """

    kind: TaskKind
    sweep: int
    trials: tuple[str, ...] = ()
    agent: str = ""


@dataclass(frozen=True)
class Plan:
    """What one launch hands to its engine.

    Attributes:
        launch_id: names the launch, also to the engine: `20261122-181500-1a2b`, the time in UTC.
        project, tracker: where runs are logged. uri: the store; None: as the node's environment says.
        working_folder: where the tasks' programs run; of the same name on every node.
        sweeps: as they were launched. tasks: by number. resources: what each task is given. engine: its name.
        store_id: tells whether two launches log to one store; see `Target`.
    """

    launch_id: str
    project: str
    tracker: str
    uri: str | None
    working_folder: Path
    sweeps: tuple[Sweep, ...]
    tasks: tuple[Task, ...]
    resources: Resources = field(default_factory=Resources)
    engine: str = "local"
    store_id: str = ""

    @cached_property
    def trials(self) -> Mapping[str, Trial]:
        """Trial id -> trial, of every sweep of the plan."""
        return {trial.trial_id: trial for sweep in self.sweeps for trial in sweep.trials()}

    def trials_of(self, task: int) -> list[Trial]:
        """The trials of a task; none of an agent's."""
        return [self.trials[trial] for trial in self.tasks[task].trials]

    def sweep_of(self, task: int) -> Sweep:
        """The sweep that a task belongs to."""
        return self.sweeps[self.tasks[task].sweep]

    def label_of(self, task: int) -> str:
        """A few words for a person: what the task does.

        >>> sweep = Sweep(lr=(0.1, 0.2), batch_size=(8,), seed=(0,))
        >>> ids = tuple(trial.trial_id for trial in sweep.trials())
        >>> plan = Plan("x", "p", "mlflow", None, Path(), (sweep,), (Task("trial", 0, ids[:1]), Task("pack", 0, ids)))
        >>> plan.label_of(0), plan.label_of(1)
        ('lr=0.1 batch=8 seed=0', 'batch 8, 2 trials')
        """
        item, trials = self.tasks[task], self.trials_of(task)
        if item.kind == "agent":
            return f"agent of {item.agent}"
        first = trials[0]
        if item.kind == "pack":
            return f"batch {first.batch_size}, {len(trials)} trials"
        return f"lr={first.lr:g} batch={first.batch_size} seed={first.seed}"

    def to_json(self) -> str:
        """The plan's text."""
        content = {
            "schema": _SCHEMA,
            "launch_id": self.launch_id,
            "project": self.project,
            "tracker": self.tracker,
            "uri": self.uri,
            "working_folder": str(self.working_folder),
            "sweeps": [sweep.to_dict() for sweep in self.sweeps],
            "tasks": [asdict(task) for task in self.tasks],
            "resources": asdict(self.resources),
            "engine": self.engine,
            "store_id": self.store_id,
        }
        return json.dumps(content, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read the text of a plan.

        Raises:
            SurgeError: this is no plan, or one of another version.

        >>> sweep = Sweep(lr=(1e-5,), batch_size=(8,), seed=(0,))
        >>> plan = Plan(new_launch_id(), "p", "mlflow", None, Path("/x"), (sweep,), (Task("agent", 0, agent="e/p/s"),))
        >>> Plan.from_json(plan.to_json()) == plan
        True
        """
        try:
            content = json.loads(text)
            if content["schema"] != _SCHEMA:
                raise SurgeError(f"its schema is {content['schema']!r}, and this version reads {_SCHEMA}.")
            plan = cls._from_dict(content)
            # Looked up now, so that no later use meets a task of a trial that is not there.
            for number in range(len(plan.tasks)):
                plan.sweep_of(number)
                plan.label_of(number)
            return plan
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise SurgeError(f"this is no plan of a launch ({type(error).__name__}).") from error

    @classmethod
    def _from_dict(cls, content: dict[str, Any]) -> Plan:
        return cls(
            launch_id=str(content["launch_id"]),
            project=str(content["project"]),
            tracker=str(content["tracker"]),
            uri=content["uri"],
            working_folder=Path(content["working_folder"]),
            sweeps=tuple(Sweep.from_yaml(yaml.safe_dump(sweep)) for sweep in content["sweeps"]),
            tasks=tuple(Task(**{**task, "trials": tuple(task["trials"])}) for task in content["tasks"]),
            resources=Resources(**content["resources"]),
            engine=str(content["engine"]),
            store_id=str(content["store_id"]),
        )


def new_launch_id() -> str:
    """An id for a launch that begins now: the time in UTC, and two bytes that keep launches of one second apart."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
