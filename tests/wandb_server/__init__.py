"""A W&B server for tests: the real client (command line, agent, run, public API) talks to it over loopback.

Only the server half is made up; it answers what `wandb` 0.31 was seen to ask, and nothing leaves the machine.
"""

from __future__ import annotations

from wandb_server.exports import Exports
from wandb_server.faults import Fault, Faults
from wandb_server.oplog import Logged, OperationLog
from wandb_server.server import API_KEY, ENTITY, WandbServer
from wandb_server.store import Run, Sweep

__all__ = [
    "API_KEY",
    "ENTITY",
    "Exports",
    "Fault",
    "Faults",
    "Logged",
    "OperationLog",
    "Run",
    "Sweep",
    "WandbServer",
]
