"""What the server remembers: projects, runs, sweeps, agents, files, artifacts and views, all in memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from wandb_server.exports import Export, Exports, export_history
from wandb_server.history import History
from wandb_server.values import JsonObject, graphql_id, iso_time

ACTIVE_STATES = frozenset({"pending", "running", "preempting"})
RUN_STATES = ACTIVE_STATES | {"finished", "failed", "crashed", "killed", "preempted"}


@dataclass
class Project:
    """A project of an entity; ``number`` is what W&B calls the internal id."""

    entity: str
    name: str
    number: int
    created_at: str

    @property
    def id(self) -> str:
        """GraphQL identifier."""
        return graphql_id("Project", "v1", self.name, self.entity)


@dataclass
class Run:
    """One run; tests may set any field. ``config`` has the stored form ``{key: {"value": value}}``."""

    entity: str
    project: str
    name: str
    created_at: str
    heartbeat_at: str
    display_name: str = ""
    state: str = "running"
    config: JsonObject = field(default_factory=dict)
    summary: JsonObject = field(default_factory=dict)
    history: History = field(default_factory=History)
    events: list[JsonObject] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    sweep: str | None = None
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    description: str | None = None
    commit: str | None = None
    host: str | None = None
    exit_code: int | None = None
    preempting: bool = False
    stop_requested: bool = False
    exports: Exports | None = None
    """What is exported of this run; ``None`` follows the server's setting."""
    _export: tuple[object, Export] | None = None

    @property
    def id(self) -> str:
        """GraphQL identifier."""
        return graphql_id("Run", "v1", self.name, self.project, self.entity)

    @property
    def path(self) -> str:
        """``entity/project/name``, as the public API takes it."""
        return f"{self.entity}/{self.project}/{self.name}"

    @property
    def values(self) -> JsonObject:
        """The config as the user gave it, without W&B's own part."""
        return {key: entry["value"] for key, entry in self.config.items() if key != "_wandb"}

    def export(self, default: Exports) -> Export:
        """The run's Parquet files, written once for every version of its history."""
        exports = self.exports or default
        if self.state in ACTIVE_STATES or not exports.available:
            return Export((), tuple(float(step) for step in self.history.steps()))
        version = (self.history.version, exports)
        if self._export is None or self._export[0] != version:
            self._export = (version, export_history(self.history, exports))
        return self._export[1]


@dataclass
class Sweep:
    """One sweep: its configuration, the points it has not handed out, and runs to be resumed."""

    entity: str
    project: str
    name: str
    config_text: str
    config: JsonObject
    created_at: str
    points: Iterator[JsonObject]
    expected_runs: int | None
    state: str = "PENDING"
    display_name: str | None = None
    scheduled: int = 0
    arguments: dict[str, JsonObject] = field(default_factory=dict)
    """Parameters by run name, ``{name: {"value": value}}``."""
    requeued: deque[str] = field(default_factory=deque)

    @property
    def id(self) -> str:
        """GraphQL identifier."""
        return graphql_id("Sweep", "v1", self.name)

    @property
    def path(self) -> str:
        """``entity/project/name``, as the agent and the public API take it."""
        return f"{self.entity}/{self.project}/{self.name}"


@dataclass
class Agent:
    """One ``wandb agent`` process."""

    id: str
    name: str
    sweep: str
    host: str
    created_at: str
    heartbeat_at: str
    total_runs: int = 0


@dataclass
class Artifact:
    """One version of an artifact; ``files`` maps names inside it to storage paths."""

    id: str
    entity: str
    project: str
    type: str
    collection: str
    digest: str
    description: str | None
    metadata: str
    created_at: str
    run: str | None
    version: int
    aliases: list[str] = field(default_factory=list)
    pending_aliases: list[str] = field(default_factory=list)
    used_by: set[str] = field(default_factory=set)
    state: str = "PENDING"
    manifest: str | None = None
    """Storage path of the manifest."""
    files: dict[str, str] = field(default_factory=dict)


@dataclass
class View:
    """A saved view: a report of wandb-workspaces."""

    id: str
    entity: str
    project: str
    fields: JsonObject
    created_at: str
    updated_at: str


class Store:
    """All state, guarded by ``lock``: operations hold it, and so must a test that writes while a client runs."""

    def __init__(self, entity: str, username: str) -> None:
        self.lock = threading.RLock()
        self.entity = entity
        self.username = username
        self.base_url = ""
        self.clear()

    def clear(self) -> None:
        """Forget everything, settings included."""
        with self.lock:
            self.projects: dict[tuple[str, str], Project] = {}
            self.runs: dict[tuple[str, str, str], Run] = {}
            self.sweeps: dict[str, Sweep] = {}
            self.agents: dict[str, Agent] = {}
            self.artifacts: dict[str, Artifact] = {}
            self.views: dict[str, View] = {}
            self.files: dict[str, bytes] = {}
            self.features: dict[str, bool] = {}
            self.exports = Exports()
            self.clock_offset_s = 0.0
            self.numbers = count(1)

    def now(self) -> str:
        """The server's time; ``clock_offset_s`` sets it before or after the client's."""
        return iso_time(time.time() + self.clock_offset_s)

    def make_project(self, entity: str | None, name: str | None) -> Project:
        """The project of that name, created when it does not exist."""
        key = (entity or self.entity, name or "uncategorized")
        if key not in self.projects:
            self.projects[key] = Project(*key, next(self.numbers), self.now())
        return self.projects[key]

    def find_project(self, entity: str | None, name: str | None) -> Project | None:
        """The project, or ``None``."""
        return self.projects.get((entity or self.entity, name or "uncategorized"))

    def find_run(self, entity: str | None, project: str | None, name: str) -> Run | None:
        """The run, or ``None``."""
        return self.runs.get((entity or self.entity, project or "uncategorized", name))

    def runs_of(self, project: Project) -> list[Run]:
        """Runs of a project in the order they were made."""
        place = (project.entity, project.name)
        return [run for run in self.runs.values() if (run.entity, run.project) == place]

    def runs_of_sweep(self, sweep: Sweep) -> list[Run]:
        """Runs of a sweep in the order they were made."""
        return [run for run in self.runs.values() if run.sweep == sweep.name and run.project == sweep.project]

    def find_sweep(self, entity: str | None, project: str | None, name: str) -> Sweep | None:
        """The sweep, or ``None`` when there is none of that name in that project."""
        sweep = self.sweeps.get(name)
        place = (entity or self.entity, project or "uncategorized")
        return sweep if sweep is not None and (sweep.entity, sweep.project) == place else None

    def url(self, path: str) -> str:
        """Where the file at a storage path is uploaded and downloaded."""
        return f"{self.base_url}{path}"
