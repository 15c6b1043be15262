"""Operations that read artifacts: ``api.artifact``, its files, and the artifacts of a run."""

from __future__ import annotations

from wandb_server.account import connection, page, project_fields
from wandb_server.artifacts import find_artifact, manifest_id, versions
from wandb_server.registry import Call, operation
from wandb_server.store import Artifact, Store
from wandb_server.uploads import file_fields
from wandb_server.values import JsonObject, graphql_id


def find_by_name(store: Store, call: Call, name: str) -> Artifact | None:
    """The committed version that ``collection:alias`` or ``collection:v3`` names in the call's project."""
    collection, _, alias = name.partition(":")
    found = versions(store, call.get("entity", "entityName"), call.get("project", "projectName"), collection)
    for artifact in found:
        named = (alias or "latest") in [*artifact.aliases, f"v{artifact.version}"]
        if artifact.state == "COMMITTED" and named:
            return artifact
    return None


def collection_fields(store: Store, artifact: Artifact) -> JsonObject:
    """The collection an artifact belongs to."""
    project = store.make_project(artifact.entity, artifact.project)
    return {
        "__typename": "ArtifactSequence",
        "id": graphql_id("ArtifactCollection", artifact.collection),
        "name": artifact.collection,
        "project": project_fields(project),
    }


def alias_fields(store: Store, artifact: Artifact) -> list[JsonObject]:
    """The aliases of a version."""
    collection = collection_fields(store, artifact)
    ids = [(alias, graphql_id("Alias", artifact.id, alias)) for alias in artifact.aliases]
    return [
        {"__typename": "ArtifactAlias", "id": alias_id, "alias": alias, "artifactCollection": collection}
        for alias, alias_id in ids
    ]


def artifact_fields(store: Store, artifact: Artifact) -> JsonObject:
    """An artifact, as every operation answers it."""
    manifest = file_fields(store, artifact.manifest or "", "wandb_manifest.json")
    return {
        "__typename": "Artifact",
        "id": artifact.id,
        "artifactSequence": collection_fields(store, artifact),
        "versionIndex": artifact.version,
        "artifactType": {"name": artifact.type},
        "description": artifact.description,
        "metadata": artifact.metadata,
        "ttlDurationSeconds": -2,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "state": artifact.state,
        "size": sum(len(store.files.get(path, b"")) for path in artifact.files.values()),
        "digest": artifact.digest,
        "digestAlgorithm": "MANIFEST_MD5",
        "commitHash": "0",
        "fileCount": len(artifact.files),
        "createdAt": artifact.created_at,
        "updatedAt": artifact.created_at,
        "aliases": alias_fields(store, artifact),
        "currentManifest": {"id": manifest_id(artifact), "file": manifest},
    }


@operation("ArtifactByID", "ArtifactManifest", "FetchArtifactManifest")
def artifact_by_id(store: Store, call: Call) -> JsonObject:
    """One version by its id."""
    return {"artifact": artifact_fields(store, find_artifact(store, call.get("id", "artifact_id")))}


@operation("ArtifactMembershipByName")
def artifact_by_name(store: Store, call: Call) -> JsonObject:
    """``api.artifact("collection:alias")``, null when there is none."""
    artifact = find_by_name(store, call, call["name"])
    if artifact is None:
        return {"project": {"artifactCollectionMembership": None}}
    membership = {
        "__typename": "ArtifactCollectionMembership",
        "id": graphql_id("ArtifactCollectionMembership", artifact.id),
        "versionIndex": artifact.version,
        "createdAt": artifact.created_at,
        "aliases": alias_fields(store, artifact),
        "artifactCollection": collection_fields(store, artifact),
        "artifact": artifact_fields(store, artifact),
    }
    return {"project": {"artifactCollectionMembership": membership}}


@operation("ArtifactType")
def artifact_type(store: Store, call: Call) -> JsonObject:
    """The type of a version, null when there is none."""
    artifact = find_by_name(store, call, call["name"])
    return {"project": {"artifact": {"artifactType": {"name": artifact.type}} if artifact else None}}


@operation("GetArtifactMembershipFileUrls", "ArtifactMembershipFiles")
def artifact_files(store: Store, call: Call) -> JsonObject:
    """The files of a version, page by page."""
    artifact = find_by_name(store, call, f"{call['collection']}:{call['alias']}")
    if artifact is None:
        return {"project": {"artifactCollection": None}}
    names = [name for name in artifact.files if not call.get("fileNames") or name in call["fileNames"]]
    found, cursor, more = page(call, names)
    files = connection([file_fields(store, artifact.files[name], name) for name in found], cursor, more)
    membership = {"files": files | {"totalCount": len(names)}}
    return {
        "project": {
            "artifactCollection": {"__typename": "ArtifactSequence", "artifactMembership": membership}
        }
    }


@operation("ArtifactFileURLsByManifestEntries")
def file_urls(store: Store, call: Call) -> JsonObject:
    """Addresses of all files of a version."""
    artifact = find_artifact(store, call["id"])
    files = [file_fields(store, path, name) for name, path in artifact.files.items()]
    return {"artifact": {"filesByManifestEntries": connection(files)}}


@operation("RunOutputArtifacts", "RunInputArtifacts")
def run_artifacts(store: Store, call: Call) -> JsonObject:
    """``run.logged_artifacts()`` and ``run.used_artifacts()``."""
    wrote = call.name == "RunOutputArtifacts"
    items = [
        artifact
        for artifact in store.artifacts.values()
        if artifact.state == "COMMITTED"
        and (artifact.entity, artifact.project) == (call["entity"], call["project"])
        and (artifact.run == call["run"] if wrote else call["run"] in artifact.used_by)
    ]
    found, cursor, more = page(call, items)
    nodes = [artifact_fields(store, artifact) for artifact in found]
    return {"project": {"run": {"artifacts": connection(nodes, cursor, more) | {"totalCount": len(items)}}}}


@operation("ProjectArtifacts")
def project_artifacts(store: Store, call: Call) -> JsonObject:
    """``api.artifacts(type, name)``: committed versions of a collection, newest first."""
    items = versions(store, call.get("entity"), call.get("project"), call["collection"])
    items = [a for a in reversed(items) if a.state == "COMMITTED" and a.type == call["type"]]
    if not items:
        return {"project": {"artifactType": {"artifactCollection": None}}}
    found, cursor, more = page(call, items)
    listed = connection([artifact_fields(store, artifact) for artifact in found], cursor, more)
    for edge, artifact in zip(listed["edges"], found, strict=True):
        edge["version"] = f"v{artifact.version}"
    collection = {"__typename": "ArtifactSequence", "artifacts": listed | {"totalCount": len(items)}}
    return {"project": {"artifactType": {"artifactCollection": collection}}}
