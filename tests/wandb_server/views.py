"""Saved views: the reports of wandb-workspaces."""

from __future__ import annotations

from wandb_server.account import connection, page, user
from wandb_server.registry import Call, GraphQLError, operation
from wandb_server.store import Store, View
from wandb_server.values import JsonObject, graphql_id


def view_fields(store: Store, view: View) -> JsonObject:
    """A view, as every operation answers it."""
    project = store.make_project(view.entity, view.project)
    return {
        "id": view.id,
        "type": view.fields.get("type"),
        "name": view.fields.get("name"),
        "displayName": view.fields.get("displayName"),
        "description": view.fields.get("description"),
        "spec": view.fields.get("spec"),
        "previewUrl": "",
        "coverUrl": "",
        "viewcount": 0,
        "createdAt": view.created_at,
        "updatedAt": view.updated_at,
        "project": {"id": project.id, "name": project.name, "entityName": project.entity},
        "user": user(store),
    }


@operation("upsertView")
def upsert_view(store: Store, call: Call) -> JsonObject:
    """Save a view; with an id, the one that is there already."""
    view_id = call.get("id")
    if view_id and view_id not in store.views:
        raise GraphQLError(f"view {view_id} not found", 404)
    view = store.views.get(view_id or "")
    if view is None:
        view_id = graphql_id("View", next(store.numbers))
        entity, project = call.get("entityName") or store.entity, call.get("projectName") or "uncategorized"
        view = store.views[view_id] = View(view_id, entity, project, {}, store.now(), store.now())
    view.fields |= {key: value for key, value in call.variables.items() if key != "id" and value is not None}
    view.updated_at = store.now()
    return {"upsertView": {"view": view_fields(store, view), "inserted": not call.get("id")}}


@operation("SpecificReport")
def specific_report(store: Store, call: Call) -> JsonObject:
    """One report by its id, null when there is none."""
    view = store.views.get(call["reportId"])
    return {"view": view_fields(store, view) if view else None}


@operation("ProjectViews")
def project_views(store: Store, call: Call) -> JsonObject:
    """``api.reports(path)``: the reports of a project, all or those of one name."""
    project = store.find_project(call.get("entity"), call.get("project"))
    if project is None:
        return {"project": None}
    wanted = call.get("name", "viewName")
    views = [
        view for view in store.views.values() if (view.entity, view.project) == (project.entity, project.name)
    ]
    views = [
        view
        for view in views
        if wanted is None or wanted in (view.fields.get("name"), view.fields.get("displayName"))
    ]
    found, cursor, more = page(call, views)
    return {"project": {"allViews": connection([view_fields(store, view) for view in found], cursor, more)}}


@operation("deleteView")
def delete_view(store: Store, call: Call) -> JsonObject:
    """Delete a view."""
    found = store.views.pop(call["id"], None)
    return {
        "deleteView": {"__typename": "DeleteViewPayload", "success": found is not None, "pendingDrafts": []}
    }
