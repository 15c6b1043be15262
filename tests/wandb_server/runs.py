"""Operations that write, list and read runs."""

from __future__ import annotations

import json

from wandb_server.account import connection, page, project_fields
from wandb_server.filters import select
from wandb_server.registry import Call, GraphQLError, operation
from wandb_server.store import ACTIVE_STATES, Project, Run, Store
from wandb_server.values import JsonObject, new_id, parse_json

UPSERT_FIELDS = {
    "groupName": "group",
    "jobType": "job_type",
    "tags": "tags",
    "notes": "notes",
    "description": "description",
    "displayName": "display_name",
    "display_name": "display_name",
    "sweep": "sweep",
    "commit": "commit",
    "host": "host",
    "state": "state",
}


def light_fields(run: Run, project: Project) -> JsonObject:
    """The fields of a run that a lazy listing asks for."""
    return {
        "__typename": "Run",
        "id": run.id,
        "internalId": run.id,
        "projectId": str(project.number),
        "name": run.name,
        "displayName": run.display_name,
        "sweepName": run.sweep,
        "state": run.state,
        "group": run.group,
        "jobType": run.job_type,
        "commit": run.commit,
        "readOnly": False,
        "createdAt": run.created_at,
        "updatedAt": run.heartbeat_at,
        "heartbeatAt": run.heartbeat_at,
        "description": run.description,
        "notes": run.notes,
        "tags": run.tags,
        "historyLineCount": len(run.history),
        "user": {"name": "Test User", "username": "test-user"},
    }


def run_fields(run: Run, project: Project) -> JsonObject:
    """All fields of a run."""
    entries = run.config.get("_wandb", {}).get("value") or {}
    return light_fields(run, project) | {
        "config": json.dumps(run.config),
        "summaryMetrics": json.dumps(run.summary),
        "systemMetrics": json.dumps(run.events[-1] if run.events else {}),
        "eventsLineCount": len(run.events),
        "logLineCount": len(run.log),
        "historyTail": json.dumps([json.dumps(row) for row in run.history.rows(len(run.history) - 1)]),
        "eventsTail": json.dumps([json.dumps(row) for row in run.events[-1:]]),
        "historyKeys": history_keys(run),
        "project": project_fields(project),
        "stopped": run.stop_requested,
        "shouldStop": run.stop_requested,
        "running": run.state == "running",
        "failed": run.state == "failed",
        "exitcode": run.exit_code,
        "wandbConfig": json.dumps({"t": entries.get("t", 1)}),
    }


def history_keys(run: Run) -> JsonObject:
    """Which keys the history has, in how many rows, and its last step."""
    keys = {
        name: {"typeCounts": [{"type": "number", "count": rows}], "monotonic": False, "previousValue": 0}
        for name, rows in run.history.key_counts().items()
    }
    return {"sets": [], "keys": keys, "lastStep": run.history.last_step}


@operation("UpsertBucket")
def upsert_run(store: Store, call: Call) -> JsonObject:
    """Make a run or change it; without ``id`` it is a client that starts (or resumes) the run."""
    run = find_by_id(store, call["id"]) if call.get("id") else None
    inserted = False
    if run is None:
        project = store.make_project(call.get("entity"), call.get("project", "model"))
        name = call.get("name") or new_id()
        run = store.runs.get((project.entity, project.name, name))
        if run is None:
            run, inserted = Run(project.entity, project.name, name, store.now(), store.now()), True
            run.display_name = f"run-{len(store.runs) + 1}"
            store.runs[project.entity, project.name, name] = run
        elif run.state not in ACTIVE_STATES:
            run.state, run.exit_code, run.stop_requested = "running", None, False
    if call.get("config"):
        run.config = parse_json(call["config"])
    if call.get("summaryMetrics"):
        run.summary = parse_json(call["summaryMetrics"])
    for variable, name in UPSERT_FIELDS.items():
        if call.get(variable) is not None:
            setattr(run, name, call[variable])
    if not call.get("id"):
        run.heartbeat_at = store.now()
    project = store.make_project(run.entity, run.project)
    return {"upsertBucket": {"bucket": run_fields(run, project), "inserted": inserted}}


@operation("RunResumeStatus")
def resume_status(store: Store, call: Call) -> JsonObject:
    """What a client that resumes needs to know, null when the run does not exist."""
    project = store.find_project(call.get("entity"), call.get("project"))
    if project is None:
        return {"model": None}
    run = store.find_run(call.get("entity"), call.get("project"), call["name"])
    return {"model": project_fields(project) | {"bucket": run_fields(run, project) if run else None}}


@operation("Runs")
def list_runs(store: Store, call: Call) -> JsonObject:
    """One page of a project's runs; a lazy listing gets the light fields only, as on W&B."""
    project = store.find_project(call.get("entity"), call.get("project"))
    if project is None:
        return {"project": None}
    found = select(store.runs_of(project), json.loads(call.get("filters") or "{}"), call.get("order"))
    rows, cursor, more = page(call, found)
    fields = light_fields if "LightweightRunFragment" in call.document else run_fields
    listed = connection([fields(run, project) for run in rows], cursor, more)
    first = int(call.get("cursor") or 0)
    for place, edge in enumerate(listed["edges"]):
        edge["cursor"] = str(first + place + 1)
    return {"project": project_fields(project) | {"runCount": len(found), "runs": listed}}


@operation("Run", "RunState", "RunHistoryKeys", "QueryRunInfo")
def get_run(store: Store, call: Call) -> JsonObject:
    """One run; null for an unknown project or run."""
    project = store.find_project(call.get("entity"), call.get("project"))
    run = store.find_run(call.get("entity"), call.get("project"), call.get("name", "run"))
    if project is None:
        return {"project": None}
    return {"project": project_fields(project) | {"run": run_fields(run, project) if run else None}}


@operation("RunStoppedStatus")
def stopped_status(store: Store, call: Call) -> JsonObject:
    """Whether someone asked the run to stop."""
    run = store.find_run(call.get("entityName"), call.get("projectName"), call["runId"])
    return {"project": {"run": {"stopped": bool(run and run.stop_requested)}}}


@operation("StopRun")
def stop_run(store: Store, call: Call) -> JsonObject:
    """Ask a run to stop."""
    find_by_id(store, call["id"]).stop_requested = True
    return {"stopRun": {"clientMutationId": None, "success": True}}


@operation("UpdateRunState")
def update_state(store: Store, call: Call) -> JsonObject:
    """``run.update_state``: runs of sweeps refuse it, as on W&B."""
    run = find_by_id(store, call["input"]["id"])
    if run.sweep is not None:
        raise GraphQLError("the state of a sweep run cannot be updated")
    run.state = call["input"]["state"]
    return {"updateRunState": {"success": True}}


@operation("DeleteRun")
def delete_run(store: Store, call: Call) -> JsonObject:
    """Delete a run and its history."""
    run = find_by_id(store, call["id"])
    del store.runs[run.entity, run.project, run.name]
    return {"deleteRun": {"clientMutationId": None}}


@operation("NotifyScriptableRunAlert")
def alert(store: Store, call: Call) -> JsonObject:
    """Accept an alert."""
    return {"notifyScriptableRunAlert": {"success": True}}


def find_by_id(store: Store, run_id: str) -> Run:
    """The run of a GraphQL id; an error answer when there is none."""
    run = next((run for run in store.runs.values() if run.id == run_id), None)
    if run is None:
        raise GraphQLError(f"run {run_id} not found", 404)
    return run
