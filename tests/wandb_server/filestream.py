"""The file_stream endpoint: rows of the history, the summary, console lines, and the end of a run."""

from __future__ import annotations

from typing import Any

from wandb_server.store import Run, Store
from wandb_server.values import JsonObject, parse_json


def stream(store: Store, entity: str, project: str, name: str, body: JsonObject) -> tuple[int, JsonObject]:
    """Take one request of the file stream; returns the HTTP status and the answer.

    Every chunk carries the line number where it belongs, so that a chunk sent twice is stored once.
    """
    run = store.find_run(entity, project, name)
    if run is None:
        return 404, {"error": f"run {entity}/{project}/{name} not found"}
    run.heartbeat_at = store.now()
    for file, chunk in (body.get("files") or {}).items():
        write_chunk(run, file, chunk["offset"], chunk["content"])
    if body.get("preempting"):
        run.preempting, run.state = True, "preempting"
    if body.get("complete"):
        finish(store, run, body.get("exitcode") or 0)
    return 200, {"exitcode": None, "limits": {}, "stopped": run.stop_requested}


def write_chunk(run: Run, file: str, offset: int, lines: list[str]) -> None:
    """Store the lines of one file at their place."""
    if file == "wandb-history.jsonl":
        run.history.write(offset, [parse_json(line) for line in lines])
    elif file == "wandb-events.jsonl":
        write_lines(run.events, offset, [parse_json(line) for line in lines])
    elif file == "wandb-summary.json":
        run.summary = parse_json(lines[-1])
    elif file == "output.log":
        write_lines(run.log, offset, lines)


def write_lines(stored: list[Any], offset: int, lines: list[Any]) -> None:
    """Put lines at their line number, whether or not they are there already."""
    start = min(offset, len(stored))
    stored[start : start + len(lines)] = lines


def finish(store: Store, run: Run, exit_code: int) -> None:
    """End a run; one that was marked as preempting and failed goes back to its sweep's queue."""
    if run.state not in ("running", "preempting"):
        return  # the end, sent again
    preempted = exit_code != 0 and run.preempting
    run.exit_code, run.preempting = exit_code, False
    if preempted:
        run.state = "preempted"
        sweep = store.sweeps.get(run.sweep or "")
        if sweep is not None and run.name not in sweep.requeued:
            sweep.requeued.append(run.name)
    else:
        run.state = "failed" if exit_code else "finished"
