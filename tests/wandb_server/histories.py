"""Operations that read histories: pages, samples and Parquet exports."""

from __future__ import annotations

import json

from wandb_server.history import sample
from wandb_server.registry import Call, operation
from wandb_server.store import Run, Store
from wandb_server.values import JsonObject


def run_of(store: Store, call: Call) -> Run | None:
    """The run a call names."""
    return store.find_run(call.get("entity"), call.get("project"), call.get("runName", "run", "name"))


def answer(fields: JsonObject | None) -> JsonObject:
    """Fields of a run inside its project."""
    return {"project": {"run": fields}}


@operation("RunParquetHistory")
def parquet_history(store: Store, call: Call) -> JsonObject:
    """Addresses of the export's files, and the steps that are only live."""
    run = run_of(store, call)
    if run is None:
        return answer(None)
    export = run.export(store.exports)
    paths = [f"/storage/parquet/{run.path}/{part:04d}.parquet" for part in range(len(export.files))]
    store.files |= dict(zip(paths, export.files, strict=True))
    live = [{"_step": step} for step in export.live_steps]
    return answer({"parquetHistory": {"parquetUrls": [store.url(path) for path in paths], "liveData": live}})


def first_live_line(store: Store, run: Run) -> int:
    """Where pages of live rows start: after the exported ones, which the client has read already."""
    exports = run.exports or store.exports
    return 0 if exports.live_overlap else len(run.history) - len(run.export(store.exports).live_steps)


@operation("HistoryPage")
def history_page(store: Store, call: Call) -> JsonObject:
    """Whole rows with ``minStep <= _step < maxStep``."""
    run = run_of(store, call)
    if run is None:
        return answer(None)
    rows = run.history.between(call["minStep"], call["maxStep"], first=first_live_line(store, run))
    return answer({"history": [json.dumps(row) for row in rows[: call["pageSize"]]]})


def sampled(run: Run, spec_text: str, first: int = 0) -> list[JsonObject]:
    """Rows with all keys of a specification, at most ``samples`` of them; ``maxStep`` is part of the range."""
    spec = json.loads(spec_text)
    rows = run.history.between(
        spec.get("minStep", 0), spec.get("maxStep", float("inf")) + 0.5, spec["keys"], first
    )
    return sample(rows, spec.get("samples", 500))


@operation("SampledHistoryPage")
def sampled_page(store: Store, call: Call) -> JsonObject:
    """A page of ``scan_history(keys=...)``."""
    run = run_of(store, call)
    if run is None:
        return answer(None)
    return answer({"sampledHistory": [sampled(run, call["spec"], first_live_line(store, run))]})


@operation("RunSampledHistory")
def sampled_history(store: Store, call: Call) -> JsonObject:
    """``run.history(keys=...)``: sampled rows for each specification."""
    run = run_of(store, call)
    return answer({"sampledHistory": [sampled(run, spec) for spec in call["specs"]]} if run else None)


@operation("RunFullHistory")
def full_history(store: Store, call: Call) -> JsonObject:
    """``run.history()``: whole rows, sampled."""
    run = run_of(store, call)
    if run is None:
        return answer(None)
    rows = [json.dumps(row) for row in sample(run.history.rows(), call["samples"])]
    return answer({"history": rows, "events": [json.dumps(row) for row in run.events[: call["samples"]]]})
