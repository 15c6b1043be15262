"""The columns that reading needs, and what to do about a database that lacks some of them."""

from __future__ import annotations

from collections.abc import Mapping, Set

from surge_sweeps.errors import TrackerError

#: Table -> the columns that are read. MLflow has had all of them since 2019, under the same names.
NEEDED: dict[str, frozenset[str]] = {
    "experiments": frozenset({"experiment_id", "name", "lifecycle_stage"}),
    "runs": frozenset({"run_uuid", "status", "start_time", "end_time", "lifecycle_stage", "experiment_id"}),
    "params": frozenset({"key", "value", "run_uuid"}),
    "tags": frozenset({"key", "value", "run_uuid"}),
    "metrics": frozenset({"key", "value", "timestamp", "run_uuid", "step", "is_nan"}),
    "latest_metrics": frozenset({"key", "value", "timestamp", "run_uuid", "step", "is_nan"}),
}
#: The revisions of MLflow's schema before the last of these columns came.
_OLDER = frozenset({None, "451aebb31d03", "90e64c465722", "181f10493468", "df50e92ffc5e", "7ac759974ad8"})


def check_columns(found: Mapping[str, Set[str]], revision: str | None, shown: str) -> None:
    """Refuse a database that is no MLflow store, or one whose tables are not as they are read here.

    Args:
        found: table -> its columns, none where there is no such table. revision: of the schema, as the store says.
        shown: the store, without secrets.

    Raises:
        TrackerError: a table or a column is missing.
    """
    if not found["experiments"] or not found["runs"]:
        raise TrackerError(
            f"the MLflow store {shown} cannot be read: it holds no MLflow tables.",
            "See that it is the database that MLflow writes to (MLFLOW_TRACKING_URI), then call again.",
        )
    lacking = next(
        (
            (table, sorted(missing)[0])
            for table, columns in NEEDED.items()
            if (missing := columns - found[table])
        ),
        None,
    )
    if lacking is None:
        return
    table, column = lacking
    what = f"the column {column!r} of its table {table!r}" if found[table] else f"the table {table!r}"
    if revision in _OLDER:
        raise TrackerError(
            f"the MLflow store {shown} lacks {what}: a very old MLflow made it.",
            "Make a backup, then bring it up to date with: mlflow db upgrade URI",
        )
    raise TrackerError(
        f"the MLflow store {shown} lacks {what}: its schema ({revision}) is newer than this version can read.",
        "Update surge-sweeps, or read through a server: mlflow server --backend-store-uri URI",
    )
