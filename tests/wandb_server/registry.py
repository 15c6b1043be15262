"""The table of GraphQL operations: each is a function of the store and the call, found by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wandb_server.store import Store
from wandb_server.values import JsonObject


@dataclass(frozen=True)
class Call:
    """One GraphQL request: the operation's name, its variables and the document's text."""

    name: str
    variables: JsonObject = field(default_factory=dict)
    document: str = ""

    def __getitem__(self, key: str) -> Any:
        return self.variables[key]

    def get(self, *keys: str) -> Any:
        """The first of some variables that is set."""
        return next((self.variables[key] for key in keys if self.variables.get(key) is not None), None)


class GraphQLError(Exception):
    """An error the server answers with: ``{"errors": [{"message": ...}]}`` under an HTTP status."""

    def __init__(self, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.status = status


Operation = Callable[[Store, Call], JsonObject]
OPERATIONS: dict[str, Operation] = {}


def operation(*names: str) -> Callable[[Operation], Operation]:
    """Register a function as the answer to operations of these names."""

    def register(function: Operation) -> Operation:
        for name in names:
            OPERATIONS[name] = function
        return function

    return register
