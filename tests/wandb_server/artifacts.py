"""Operations that write artifacts: what ``wandb.Table`` and ``log_artifact`` need."""

from __future__ import annotations

from wandb_server.registry import Call, GraphQLError, operation
from wandb_server.store import Artifact, Store
from wandb_server.uploads import file_fields
from wandb_server.values import JsonObject, graphql_id


def find_artifact(store: Store, artifact_id: str) -> Artifact:
    """The artifact of an id; an error answer when there is none."""
    if artifact_id not in store.artifacts:
        raise GraphQLError(f"artifact {artifact_id} not found", 404)
    return store.artifacts[artifact_id]


def versions(store: Store, entity: str | None, project: str | None, collection: str) -> list[Artifact]:
    """Committed and announced versions of a collection, oldest first."""
    place = (entity or store.entity, project, collection)
    return [a for a in store.artifacts.values() if (a.entity, a.project, a.collection) == place]


def manifest_id(artifact: Artifact) -> str:
    """GraphQL identifier of an artifact's manifest."""
    return graphql_id("ArtifactManifest", artifact.id)


def move_aliases(store: Store, artifact: Artifact, aliases: list[str]) -> None:
    """Give aliases to one version, away from the others."""
    for other in versions(store, artifact.entity, artifact.project, artifact.collection):
        other.aliases = [alias for alias in other.aliases if alias not in aliases]
    artifact.aliases += aliases


@operation("CreateArtifact")
def create_artifact(store: Store, call: Call) -> JsonObject:
    """Announce a version; a digest that is known already means that version, as on W&B."""
    given = call["input"]
    project = store.make_project(given.get("entityName"), given.get("projectName"))
    collection = given["artifactCollectionName"]
    known = versions(store, project.entity, project.name, collection)
    aliases = [each["alias"] for each in given.get("aliases") or []]
    artifact = next((a for a in known if a.digest == given["digest"]), None)
    if artifact is None:
        artifact = Artifact(
            id=graphql_id("Artifact", next(store.numbers)),
            entity=project.entity,
            project=project.name,
            type=given["artifactTypeName"],
            collection=collection,
            digest=given["digest"],
            description=given.get("description"),
            metadata=given.get("metadata") or "{}",
            created_at=store.now(),
            run=given.get("runName"),
            version=len(known),
            pending_aliases=list(dict.fromkeys([*aliases, "latest"])),
        )
        store.artifacts[artifact.id] = artifact
    elif artifact.state == "COMMITTED":
        move_aliases(store, artifact, aliases)
    latest = max((a for a in known if a.state == "COMMITTED"), key=lambda a: a.version, default=None)
    sequence = {
        "id": graphql_id("ArtifactCollection", collection),
        "latestArtifact": {"id": latest.id, "versionIndex": latest.version} if latest else None,
    }
    fields = {"id": artifact.id, "state": artifact.state, "artifactSequence": sequence}
    return {"createArtifact": {"artifact": fields}}


@operation("CreateArtifactManifest")
def create_manifest(store: Store, call: Call) -> JsonObject:
    """Where the list of an artifact's files is to be uploaded."""
    artifact = find_artifact(store, call["artifactID"])
    artifact.manifest = f"/storage/manifests/{artifact.id.strip('=')}/{call['name']}"
    file = file_fields(store, artifact.manifest, call["name"])
    return {"createArtifactManifest": {"artifactManifest": {"id": manifest_id(artifact), "file": file}}}


@operation("UpdateArtifactManifest")
def update_manifest(store: Store, call: Call) -> JsonObject:
    """Where to upload that list again."""
    artifact = next(
        (a for a in store.artifacts.values() if manifest_id(a) == call["artifactManifestID"]), None
    )
    if artifact is None:
        raise GraphQLError("artifact manifest not found", 404)
    file = file_fields(store, artifact.manifest or "", "wandb_manifest.json")
    return {"updateArtifactManifest": {"artifactManifest": {"id": manifest_id(artifact), "file": file}}}


@operation("CreateArtifactFiles")
def create_artifact_files(store: Store, call: Call) -> JsonObject:
    """Where the files of an artifact are to be uploaded."""
    nodes = []
    for file in call.variables.get("input", call.variables)["artifactFiles"]:  # older clients send no "input"
        artifact = find_artifact(store, file["artifactID"])
        path = f"/storage/artifacts/{artifact.id.strip('=')}/{file['name']}"
        artifact.files[file["name"]] = path
        fields = file_fields(store, path, file["name"])
        nodes.append(fields | {"uploadMultipartUrls": None, "artifact": {"id": artifact.id}})
    return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}


@operation("CommitArtifact")
def commit_artifact(store: Store, call: Call) -> JsonObject:
    """Make a version visible, and move its aliases to it."""
    artifact = find_artifact(store, call["artifactID"])
    artifact.state = "COMMITTED"
    move_aliases(store, artifact, artifact.pending_aliases)
    artifact.pending_aliases = []
    return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}


@operation("UpdateArtifact")
def update_artifact(store: Store, call: Call) -> JsonObject:
    """Change the description or the metadata of a version."""
    given = call["input"]
    artifact = find_artifact(store, given["artifactID"])
    artifact.description = given.get("description") or artifact.description
    artifact.metadata = given.get("metadata") or artifact.metadata
    return {"updateArtifact": {"artifact": {"id": artifact.id}}}


@operation("DeleteArtifact")
def delete_artifact(store: Store, call: Call) -> JsonObject:
    """Delete a version."""
    del store.artifacts[find_artifact(store, call["input"]["artifactID"]).id]
    return {"result": {"artifact": {"id": call["input"]["artifactID"]}}}


@operation("UseArtifact")
def use_artifact(store: Store, call: Call) -> JsonObject:
    """Record that a run reads an artifact."""
    artifact = find_artifact(store, call["input"]["artifactID"])
    if call["input"].get("runName"):
        artifact.used_by.add(call["input"]["runName"])
    return {"useArtifact": {"artifact": {"id": artifact.id}}}
