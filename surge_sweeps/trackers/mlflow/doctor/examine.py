"""Look at a store, whatever its kind, and say what is wrong; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Sequence

from surge_sweeps.trackers.assemble import STALE_AFTER_S
from surge_sweeps.trackers.mlflow.client import connect, store_errors
from surge_sweeps.trackers.mlflow.doctor.database import count_points, database_findings
from surge_sweeps.trackers.mlflow.doctor.facts import (
    RunFacts,
    experiments_of,
    facts_of_database,
    facts_of_server,
)
from surge_sweeps.trackers.mlflow.doctor.finding import Examination
from surge_sweeps.trackers.mlflow.doctor.points import point_findings
from surge_sweeps.trackers.mlflow.doctor.runs import run_findings
from surge_sweeps.trackers.mlflow.doctor.server import server_findings
from surge_sweeps.trackers.mlflow.schema import READ_HINT, check_schema, is_server, open_to_read, schema_age
from surge_sweeps.trackers.mlflow.server_probe import look_at_server
from surge_sweeps.trackers.mlflow.uri import absolute_uri, display_uri
from surge_sweeps.trackers.stored_runs import stamp_ms


def examine(uri: str, project: str | None = None, *, is_launching: bool = False) -> Examination:
    """Everything that can be seen of a store, worst first: what is mended first makes the rest possible.

    Args:
        uri: the store. project: an experiment's name, to look at its runs alone.
        is_launching: a launch is at work here, so that open runs of ours may be its own.

    Raises:
        TrackerError: it is not there or cannot be read. UnknownNameError: no such experiment.
    """
    if is_server(uri):
        return _examine_server(uri, project, is_launching)
    shown = display_uri(absolute_uri(uri))
    with open_to_read(uri) as connection:
        if schema_age(connection) == "none":
            check_schema(connection, uri)
        experiments = experiments_of(connection, project)
        facts = facts_of_database(connection, experiments)
        findings = database_findings(connection, uri, _at_work(facts))
        findings += run_findings(uri, facts, is_launching=is_launching)
        findings += point_findings(connection, facts)
        points = count_points(connection)
    findings.sort(key=lambda finding: not finding.is_fault)
    return Examination(shown, len(facts), len(experiments), points, findings)


def _examine_server(uri: str, project: str | None, is_launching: bool) -> Examination:
    look = look_at_server(uri)
    findings = server_findings(uri, look)
    if look.refused_host is not None:
        return Examination(display_uri(uri), 0, 0, None, findings)
    client = connect(uri)
    with store_errors(uri, "read", READ_HINT):
        experiments, facts = facts_of_server(client, project)
    findings += run_findings(uri, facts, is_launching=is_launching)
    findings.sort(key=lambda finding: not finding.is_fault)
    return Examination(display_uri(uri), len(facts), len(experiments), None, findings)


def _at_work(facts: Sequence[RunFacts]) -> int:
    """How many runs are being written now: open, with a point within the hour."""
    oldest_ms = (time.time() - STALE_AFTER_S) * 1000
    return sum(run.is_open and (stamp_ms(run.newest_ms) or 0) >= oldest_ms for run in facts)
