"""Operations of sweeps and their agents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice

import yaml

from wandb_server.account import connection, page, project_fields
from wandb_server.points import draws, grid
from wandb_server.registry import Call, GraphQLError, operation
from wandb_server.runs import run_fields
from wandb_server.store import ACTIVE_STATES, Agent, Store, Sweep
from wandb_server.values import JsonObject, graphql_id, new_id, parse_json

TOP_LEVEL_KEYS = frozenset(
    {
        "apiVersion",
        "command",
        "controller",
        "description",
        "early_terminate",
        "entity",
        "image_uri",
        "job",
        "kind",
    }
    | {"method", "metric", "metrics", "name", "parameters", "program", "project", "run_cap", "scheduler"}
)
ENDED = frozenset({"FINISHED", "CANCELED", "STOPPED"})


@operation("UpsertSweep", "UpsertSweepState")
def upsert_sweep(store: Store, call: Call) -> JsonObject:
    """Make a sweep, or change the state or the configuration of one."""
    if call.get("id"):
        sweep = next((sweep for sweep in store.sweeps.values() if sweep.id == call["id"]), None)
        if sweep is None:
            raise GraphQLError("sweep not found", 404)
        if call.get("config"):
            configure(sweep, call["config"])
    else:
        project = store.make_project(call.get("entityName"), call.get("projectName"))
        sweep = Sweep(project.entity, project.name, new_id(), "", {}, store.now(), iter(()), None)
        configure(sweep, call["config"])
        store.sweeps[sweep.name] = sweep
    sweep.display_name = call.get("displayName") or sweep.display_name or sweep.config.get("name")
    if call.get("state"):
        set_state(store, sweep, call["state"])
    project = store.make_project(sweep.entity, sweep.project)
    fields = {"id": sweep.id, "name": sweep.name, "project": project_fields(project)}
    unknown = sorted(set(sweep.config) - TOP_LEVEL_KEYS)
    warnings = [f"Additional properties are not allowed ({key!r} was unexpected)" for key in unknown]
    return {"upsertSweep": {"sweep": fields, "configValidationWarnings": warnings}}


def configure(sweep: Sweep, text: str) -> None:
    """Read a configuration; cells that were handed out already are not handed out again."""
    config = yaml.safe_load(text)
    if not isinstance(config, dict) or "method" not in config or "parameters" not in config:
        raise GraphQLError("invalid sweep config: method and parameters are required")
    sweep.config_text, sweep.config = text, config
    if config["method"] == "grid":
        given = [{key: entry["value"] for key, entry in args.items()} for args in sweep.arguments.values()]
        cells = grid(config)
        sweep.expected_runs = len(cells)
        points: Iterator[JsonObject] = iter([cell for cell in cells if cell not in given])
    else:
        points, sweep.expected_runs = draws(config, seed=len(sweep.name)), None
    if "run_cap" in config:
        points = islice(points, max(int(config["run_cap"]) - sweep.scheduled, 0))
        sweep.expected_runs = min(config["run_cap"], sweep.expected_runs or config["run_cap"])
    sweep.points = points


def set_state(store: Store, sweep: Sweep, state: str) -> None:
    """Change a sweep's state; cancelling it stops its runs."""
    sweep.state = state
    if state == "CANCELED":
        for run in store.runs_of_sweep(sweep):
            run.stop_requested |= run.state in ACTIVE_STATES


def sweep_fields(store: Store, sweep: Sweep) -> JsonObject:
    """A sweep without its runs."""
    runs = store.runs_of_sweep(sweep)
    metric = sweep.config.get("metric") or {}
    losses = [run.summary.get(metric.get("name", "")) for run in runs]
    numbers = [float(loss) for loss in losses if isinstance(loss, (int, float))]
    best = max if metric.get("goal") == "maximize" else min
    return {
        "__typename": "Sweep",
        "id": sweep.id,
        "name": sweep.name,
        "displayName": sweep.display_name,
        "method": sweep.config.get("method"),
        "state": sweep.state,
        "description": sweep.config.get("description"),
        "config": sweep.config_text,
        "createdAt": sweep.created_at,
        "heartbeatAt": store.now(),
        "updatedAt": store.now(),
        "earlyStopJobRunning": False,
        "bestLoss": best(numbers) if numbers else None,
        "controller": None,
        "scheduler": None,
        "runCount": len(runs),
        "runCountExpected": sweep.expected_runs,
    }


@operation("GetSweep", "GetSweepLegacy", "GetSweepState", "SweepConfig")
def get_sweep(store: Store, call: Call) -> JsonObject:
    """One sweep, null when there is none (or no longer)."""
    sweep = store.find_sweep(call.get("entity"), call.get("project"), call.get("name", "sweep"))
    return {"project": {"sweep": sweep_fields(store, sweep) if sweep else None}}


@operation("SweepWithRuns")
def sweep_with_runs(store: Store, call: Call) -> JsonObject:
    """One sweep and its runs."""
    sweep = store.find_sweep(
        call.get("entity", "entityName"), call.get("project", "projectName"), call["sweep"]
    )
    if sweep is None:
        return {"project": {"sweep": None}}
    project = store.make_project(sweep.entity, sweep.project)
    runs = [run_fields(run, project) | {"sampledHistory": [[]]} for run in store.runs_of_sweep(sweep)]
    return {"project": {"sweep": sweep_fields(store, sweep) | {"runs": connection(runs)}}}


@operation("GetSweeps")
def get_sweeps(store: Store, call: Call) -> JsonObject:
    """Sweeps of a project, page by page."""
    project = store.find_project(call.get("entity"), call.get("project"))
    if project is None:
        return {"project": None}
    sweeps = [s for s in store.sweeps.values() if (s.entity, s.project) == (project.entity, project.name)]
    found, cursor, more = page(call, sweeps)
    nodes = [sweep_fields(store, sweep) for sweep in found]
    return {"project": {"totalSweeps": len(sweeps), "sweeps": connection(nodes, cursor, more)}}


@operation("CreateAgent")
def create_agent(store: Store, call: Call) -> JsonObject:
    """Register an agent with its sweep."""
    sweep = store.sweeps.get(call["sweep"])
    if sweep is None:
        raise GraphQLError("sweep not found", 404)
    agent_id = graphql_id("Agent", next(store.numbers))
    store.agents[agent_id] = Agent(agent_id, new_id(), sweep.name, call["host"], store.now(), store.now())
    if sweep.state == "PENDING":
        sweep.state = "RUNNING"
    return {"createAgent": {"agent": {"id": agent_id}}}


@operation("Heartbeat")
def heartbeat(store: Store, call: Call) -> JsonObject:
    """Tell an agent what to do; 404 when it or its sweep is gone."""
    agent = store.agents.get(call["id"])
    sweep = store.sweeps.get(agent.sweep) if agent else None
    if agent is None or sweep is None:
        raise GraphQLError("agent not found", 404)
    agent.heartbeat_at = store.now()
    busy = [name for name, alive in parse_json(call.get("runState") or "{}").items() if alive]
    commands = json.dumps(next_commands(store, sweep, agent, busy))
    return {"agentHeartbeat": {"agent": {"id": agent.id}, "commands": commands}}


def next_commands(store: Store, sweep: Sweep, agent: Agent, busy: list[str]) -> list[JsonObject]:
    """Commands for an agent that reports which of its runs are alive."""
    for name in busy:
        run = store.find_run(sweep.entity, sweep.project, name)
        if run is not None and run.stop_requested:
            run.state = "killed"
            return [{"type": "stop", "run_id": name}]
    if busy or sweep.state == "PAUSED":
        return []
    if sweep.state in ENDED:
        return [{"type": "exit"}]
    if sweep.requeued:
        return [start(sweep, agent, "resume", sweep.requeued.popleft())]
    point = next(sweep.points, None)
    if point is None:
        if all(run.state not in ACTIVE_STATES for run in store.runs_of_sweep(sweep)):
            sweep.state = "FINISHED"
        return [{"type": "exit"}]
    name = new_id()
    sweep.scheduled += 1
    sweep.arguments[name] = {key: {"value": value} for key, value in point.items()}
    return [start(sweep, agent, "run", name)]


def start(sweep: Sweep, agent: Agent, kind: str, name: str) -> JsonObject:
    """The command that starts or resumes a run."""
    agent.total_runs += 1
    return {
        "type": kind,
        "run_id": name,
        "program": sweep.config.get("program"),
        "args": sweep.arguments.get(name, {}),
    }


def agent_fields(agent: Agent) -> JsonObject:
    """An agent, as every operation answers it."""
    return {
        "__typename": "Agent",
        "id": agent.id,
        "name": agent.name,
        "host": agent.host,
        "state": "RUNNING",
        "totalRuns": agent.total_runs,
        "createdAt": agent.created_at,
        "heartbeatAt": agent.heartbeat_at,
    }


@operation("GetSweepAgents")
def get_agents(store: Store, call: Call) -> JsonObject:
    """Agents of a sweep."""
    agents = [agent_fields(agent) for agent in store.agents.values() if agent.sweep == call["sweep"]]
    return {"project": {"sweep": {"agents": connection(agents)}}}
