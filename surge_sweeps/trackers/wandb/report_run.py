"""What is written into the run of a publication.

The summary is the state of the result: the key numbers and the table, with a fingerprint of what was published. The
files are versions of an artifact; equal content is no new version. The history has a single row, which the first
publication adds: W&B's client declares a chart with a row alone, and the chart reads its table from the summary.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.publication import Publication, PublishedTable
from surge_sweeps.trackers.wandb import session
from surge_sweeps.trackers.wandb.client import WandbProject, wandb_errors
from surge_sweeps.trackers.wandb.record import JOB_TYPE_REPORT, SUMMARY

#: Summary keys. The chart's table has the name that W&B's client gives it.
FINGERPRINT = f"{SUMMARY}fingerprint"
OPTIMA = f"{SUMMARY}optimal_lr"
CHART = f"{SUMMARY}optimal_lr_chart"
CHART_TABLE = f"{CHART}_table"
#: W&B's ready scatter chart.
SCATTER = "wandb/scatter/v0"

ARTIFACT_TYPE = "surge-fit"

#: Seconds for the artifact to be committed.
_COMMIT_SECONDS = 300

#: Where the server goes away, W&B's own bounds would have its client try for hours; what the user set stays.
_BOUNDS: dict[str, float] = {
    "finish_timeout": 300,
    "x_graphql_retry_max": 8,
    "x_graphql_retry_wait_max_seconds": 20,
    "x_file_transfer_retry_max": 8,
    "x_file_transfer_retry_wait_max_seconds": 20,
    "x_file_stream_retry_max": 8,
    "x_file_stream_retry_wait_max_seconds": 20,
}
#: What WANDB_ variables say of a trial, which publishing from its job is not.
_NO_TRIAL = {"sweep_id": None, "run_group": None, "run_tags": None}


def write_run(
    project: WandbProject, run_id: str, name: str, publication: Publication, *, has_chart: bool
) -> None:
    """Write a publication into its run; the run is finished in the end, as failed where something went wrong.

    Args:
        project: with its entity. run_id: of a run that is there. name: of the artifact. publication: what is written.
        has_chart: whether an earlier publication declared the chart.

    Raises:
        TrackerError: the run cannot be written, or the server went away.
    """
    wandb = require("wandb", "wandb")
    current = session.settings()
    unset = {key: bound for key, bound in _BOUNDS.items() if not getattr(current, key, None)}
    # Older clients lack some of these.
    settings = {
        key: value for key, value in ({**session.RECORD_ONLY, **unset}).items() if hasattr(current, key)
    }
    with tempfile.TemporaryDirectory(prefix="surge-publish-") as folder, wandb_errors("written"):
        with session.quiet(), session.changed(_NO_TRIAL):
            run = wandb.init(
                entity=project.entity,
                project=project.project,
                id=run_id,
                name=run_id,
                job_type=JOB_TYPE_REPORT,
                notes=publication.answer,
                resume="allow",
                reinit="create_new",
                mode="online",  # whatever WANDB_MODE says
                dir=folder,
                settings=wandb.Settings(**settings),
            )
        with run:  # which finishes it
            _log_files(run, name, publication)
            _log_tables(run, publication, has_chart)
            _update_summary(run, {**publication.scalars, FINGERPRINT: publication.fingerprint()})


def _log_files(run: Any, name: str, publication: Publication) -> None:
    artifact = require("wandb", "wandb").Artifact(name, type=ARTIFACT_TYPE)
    for file_name, content in publication.files.items():
        with artifact.new_file(file_name, mode="wb") as file:
            file.write(content)
    try:
        run.log_artifact(artifact).wait(timeout=_COMMIT_SECONDS)
    except ValueError as error:
        raise TrackerError(f"W&B did not take the report's files: {error}.", "Publish again.") from error


def _log_tables(run: Any, publication: Publication, has_chart: bool) -> None:
    if not has_chart:
        x, y = publication.chart.columns[:2]
        title = {"title": "Optimal learning rate"}
        chart = require("wandb", "wandb").plot_table(
            SCATTER, _table(publication.chart), {"x": x, "y": y}, title
        )
        # A row that is there already, from a publication that was cut off, is not replaced.
        run.log({CHART: chart}, step=0)
    if has_chart or run.starting_step > 0:
        run.summary[CHART_TABLE] = _table(publication.chart)
    run.summary[OPTIMA] = _table(publication.optima)


def _table(table: PublishedTable) -> Any:
    return require("wandb", "wandb").Table(
        columns=list(table.columns), data=[list(row) for row in table.rows], allow_mixed_types=True
    )


def _update_summary(run: Any, values: Mapping[str, Any]) -> None:
    """Set the key numbers, and remove those of an earlier publication that no longer hold."""
    kept = {*values, OPTIMA, CHART_TABLE}
    earlier = [key for key in dict(run.summary) if key.startswith(SUMMARY)]
    for key in earlier:
        if key not in kept:
            del run.summary[key]
    run.summary.update(dict(values))
