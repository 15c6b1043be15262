"""Operations on the files of runs: where to upload them, what is there."""

from __future__ import annotations

import base64
import hashlib

from wandb_server.account import connection, page
from wandb_server.registry import Call, operation
from wandb_server.store import Run, Store
from wandb_server.values import JsonObject, graphql_id


def run_folder(entity: str, project: str, name: str) -> str:
    """Storage path below which a run's files lie."""
    return f"/storage/runs/{entity}/{project}/{name}/"


def files_of(store: Store, run: Run) -> dict[str, bytes]:
    """Uploaded files of a run by name."""
    folder = run_folder(run.entity, run.project, run.name)
    return {path.removeprefix(folder): data for path, data in store.files.items() if path.startswith(folder)}


@operation("CreateRunFiles")
def create_run_files(store: Store, call: Call) -> JsonObject:
    """Where the files of a run are to be uploaded."""
    folder = run_folder(call["entity"], call["project"], call["run"])
    files = [{"name": name, "uploadUrl": store.url(folder + name)} for name in call["files"]]
    run_id = graphql_id("Run", "v1", call["run"], call["project"], call["entity"])
    return {"createRunFiles": {"runID": run_id, "uploadHeaders": [], "files": files}}


@operation("MarkRunFilesUploaded")
def mark_uploaded(store: Store, call: Call) -> JsonObject:
    """Accept the news that uploads are done."""
    return {"markRunFilesUploaded": {"success": True}}


@operation("RunFiles")
def run_files(store: Store, call: Call) -> JsonObject:
    """``run.files()``: uploaded files of a run, all or some by name."""
    run = store.find_run(call.get("entity"), call.get("project"), call["name"])
    if run is None:
        return {"project": {"run": None}}
    files = files_of(store, run)
    names = [name for name in files if not call.get("fileNames") or name in call["fileNames"]]
    found, cursor, more = page(call, names)
    nodes = [file_fields(store, run_folder(run.entity, run.project, run.name) + name, name) for name in found]
    return {
        "project": {
            "internalId": "1",
            "run": {"fileCount": len(names), "files": connection(nodes, cursor, more)},
        }
    }


def file_fields(store: Store, path: str, name: str) -> JsonObject:
    """One stored file under its name, as every operation answers it."""
    data = store.files.get(path, b"")
    md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    return {
        "__typename": "File",
        "id": graphql_id("File", path),
        "name": name,
        "displayName": name,
        "storagePath": path,
        "url": store.url(path),
        "directUrl": store.url(path),
        "uploadUrl": store.url(path),
        "uploadHeaders": [],
        "sizeBytes": len(data),
        "mimetype": "application/octet-stream",
        "updatedAt": store.now(),
        "md5": md5,
        "digest": md5,
    }
