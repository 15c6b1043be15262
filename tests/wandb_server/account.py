"""Operations about the user, the server and its projects."""

from __future__ import annotations

from typing import Any

from wandb_server.registry import Call, operation
from wandb_server.store import Project, Store
from wandb_server.values import JsonObject, graphql_id


def connection(nodes: list[Any], cursor: str | None = None, more: bool = False) -> JsonObject:
    """A GraphQL connection: edges and the place of the next page."""
    return {
        "edges": [{"node": node} for node in nodes],
        "pageInfo": {"__typename": "PageInfo", "endCursor": cursor, "hasNextPage": more},
    }


def page(call: Call, items: list[Any]) -> tuple[list[Any], str | None, bool]:
    """The page of ``items`` that ``perPage`` and ``cursor`` (a position) ask for, its cursor, whether more follow."""
    start = int(call.get("cursor", "after", "fileCursor", "reportCursor") or 0)
    end = start + int(call.get("perPage", "first", "fileLimit", "reportLimit") or 50)
    found = items[start:end]
    return found, str(start + len(found)) if found else None, end < len(items)


def user(store: Store) -> JsonObject:
    """The one user."""
    return {
        "__typename": "User",
        "id": graphql_id("User", 1),
        "name": "Test User",
        "username": store.username,
        "email": "user@example.com",
        "entity": store.entity,
        "admin": False,
        "flags": '{"code_saving_enabled": false}',
        "deletedAt": None,
        "photoUrl": "",
        "userInfo": "{}",
        "teams": {"edges": [{"node": {"name": store.entity}}]},
        "apiKeys": {"edges": []},
    }


def project_fields(project: Project) -> JsonObject:
    """A project, as every operation answers it."""
    return {
        "__typename": "Project",
        "id": project.id,
        "internalId": str(project.number),
        "name": project.name,
        "entityName": project.entity,
        "createdAt": project.created_at,
        "isBenchmark": False,
        "readOnly": False,
        "user": None,
        "description": "",
        "access": "PRIVATE",
        "views": "{}",
        "entity": {"id": graphql_id("Entity", project.entity), "name": project.entity},
    }


@operation("Viewer", "GetViewer", "GetDefaultEntity")
def viewer(store: Store, call: Call) -> JsonObject:
    """Who the key belongs to."""
    return {"viewer": user(store)}


@operation("ServerInfo", "ServerFeaturesQuery")
def server_info(store: Store, call: Call) -> JsonObject:
    """Versions, and the features that ``store.features`` switches on."""
    features = [{"name": name, "isEnabled": enabled} for name, enabled in store.features.items()]
    versions = {"max_cli_version": "99.0.0", "min_cli_version": "0.0.1"}
    return {"serverInfo": {"cliVersionInfo": versions, "latestLocalVersionInfo": None, "features": features}}


@operation("CreateProject")
def create_project(store: Store, call: Call) -> JsonObject:
    """Make a project, or find it."""
    given = call["input"]
    known = store.find_project(given.get("entityName"), given.get("name")) is not None
    fields = project_fields(store.make_project(given.get("entityName"), given.get("name")))
    return {"result": {"project": fields, "model": fields, "inserted": not known}}


@operation("GetProject", "ProjectInternalId", "IsProjectReadOnly")
def get_project(store: Store, call: Call) -> JsonObject:
    """One project, null when there is none."""
    project = store.find_project(call.get("entity", "entityName"), call.get("name", "project", "projectName"))
    return {"project": project_fields(project) if project else None}


@operation("GetProjects")
def get_projects(store: Store, call: Call) -> JsonObject:
    """Projects of an entity, page by page."""
    entity = call.get("entity") or store.entity
    found, cursor, more = page(call, [p for p in store.projects.values() if p.entity == entity])
    return {"models": connection([project_fields(project) for project in found], cursor, more)}
