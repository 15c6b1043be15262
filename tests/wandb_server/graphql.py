"""Dispatch of GraphQL requests: by the operation's name alone, the selected fields are never looked at."""

from __future__ import annotations

import re

from wandb_server import account, artifact_queries, artifacts, histories, runs, sweeps, uploads, views
from wandb_server.registry import OPERATIONS, Call, GraphQLError
from wandb_server.store import Store
from wandb_server.values import JsonObject, parse_json

NAMED = re.compile(r"\b(?:query|mutation)\s+([A-Za-z_]\w*)")
MODULES = (
    account,
    artifact_queries,
    artifacts,
    histories,
    runs,
    sweeps,
    uploads,
    views,
)  # importing them fills OPERATIONS


def parse_call(body: bytes) -> Call:
    """Read a request; the client leaves ``operationName`` empty, so the name is read from the document.

    >>> parse_call(b'{"query": "query Viewer { viewer { id } }", "operationName": ""}').name
    'Viewer'
    """
    request = parse_json(body)
    document = request.get("query") or ""
    named = NAMED.search(document)
    name = request.get("operationName") or (
        named[1] if named else "Viewer" if "viewer" in document else "anonymous"
    )
    return Call(name, request.get("variables") or {}, document)


def answer(store: Store, call: Call) -> tuple[int, JsonObject]:
    """Carry out a call; returns the HTTP status and the body."""
    function = OPERATIONS.get(call.name)
    if function is None:
        return 200, failure(f"operation {call.name} is not known to the test server")
    try:
        with store.lock:
            return 200, {"data": function(store, call)}
    except GraphQLError as error:
        return error.status, failure(str(error))


def failure(message: str) -> JsonObject:
    """The body of an error answer."""
    return {"data": None, "errors": [{"message": message}]}
