"""An MLflow store read straight from PostgreSQL by psycopg, in transactions that the server itself keeps read-only.

The server packs all points of a run into one value, eight bytes a number, which numpy takes as it is: no Python object
for any point. Needs psycopg, neither mlflow nor SQLAlchemy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from surge_sweeps.curve_cache import Series, join_series
from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.mlflow.client import shorten
from surge_sweeps.trackers.mlflow.database.columns import NEEDED, check_columns
from surge_sweeps.trackers.mlflow.database.postgres_uri import connection_options, display_postgres
from surge_sweeps.trackers.mlflow.database.tables import DatabaseStore
from surge_sweeps.trackers.mlflow.runs import in_order, refuse_axis, restore_infinities

if TYPE_CHECKING:
    from psycopg import Connection

_T = TypeVar("_T")

# One index scan a run, many runs a round trip. In the order of the runs asked for.
_PER_RUN = (
    "SELECT (SELECT {what} FROM metrics m WHERE m.run_uuid = asked.run AND m.key = %s) "
    "FROM unnest(%s::text[]) WITH ORDINALITY AS asked(run, place) ORDER BY asked.place"
)
_PACKED = (
    "string_agg(int8send(m.step) || float8send(CASE WHEN m.is_nan OR m.value IS NULL THEN 'NaN'::float8 "
    "ELSE m.value END) || int8send(m.timestamp), ''::bytea)"
)
_POINT = np.dtype([("step", ">i8"), ("value", ">f8"), ("timestamp", ">i8")])
# So that one transaction stays short, and no result has to fit into memory with another.
_RUNS_AT_ONCE = 256
_COLUMNS = (
    "SELECT attname FROM pg_catalog.pg_attribute "
    "WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped"
)
# Compiling a query of this kind takes longer than running it. For one transaction alone; older servers compile none.
_NO_COMPILING = "SELECT set_config(name, 'off', true) FROM pg_catalog.pg_settings WHERE name = 'jit'"
_MESSAGE_LIMIT = 300

#: What the server or libpq says -> what to do.
_HINTS = {
    r"password authentication failed|no password supplied|role .* does not exist": (
        "Check the user and the password in the URI (in a password, write @ as %40, : as %3A, / as %2F, % as %25), or "
        "in PGPASSWORD or ~/.pgpass; then call again."
    ),
    r"no pg_hba\.conf entry": "Ask whoever runs the server to let this user in from here, or add ?sslmode=require.",
    r"database .* does not exist": "Mend the name of the database at the end of the URI, then call again.",
    r"permission denied": (
        "Ask the owner of the database to run: GRANT SELECT ON ALL TABLES IN SCHEMA public TO the user of the URI."
    ),
    r"invalid connection option|invalid .*value|invalid port": "Mend the URI's port or what follows its question mark.",
    r"statement timeout": "Raise statement_timeout for this user, or add ?options=-cstatement_timeout%3D0 to the URI.",
}
_GENERAL_HINT = "See that the server runs and can be reached from here, then call the same command again."


@contextmanager
def open_postgres(uri: str) -> Iterator[PostgresStore]:
    """Open the store for reading.

    Raises:
        TrackerError: the server or the database cannot be reached, or it is no MLflow store.
        MissingExtraError: psycopg is not installed.
    """
    options = connection_options(uri)
    shown = display_postgres(options)
    psycopg = require("psycopg", "mlflow")
    try:
        # Statements prepared on the server do not pass through pools such as PgBouncer.
        with psycopg.connect(
            **(options | {"client_encoding": "utf8"}), autocommit=True, prepare_threshold=None
        ) as connection:
            connection.read_only = True
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            yield PostgresStore(connection, shown)
    except psycopg.Error as error:
        cause = _cause(str(error))
        hint = next((hint for pattern, hint in _HINTS.items() if re.search(pattern, cause)), _GENERAL_HINT)
        raise TrackerError(f"the MLflow store {shown} cannot be read: {cause}.", hint) from error


class PostgresStore(DatabaseStore):
    """The runs and points of an open store.

    Args:
        connection: whose transactions are read-only. shown: the store, without secrets.

    Raises:
        TrackerError: it is no MLflow store, or of a schema that cannot be read.
    """

    route = "the tables in PostgreSQL, read-only"

    def __init__(self, connection: Connection[tuple[Any, ...]], shown: str) -> None:
        self._connection = connection
        with self._moment():
            columns = {table: self._names(table) for table in NEEDED}
            has_revision = self._names("alembic_version")
            found = list(self._rows("SELECT version_num FROM alembic_version")) if has_revision else []
        check_columns(columns, str(found[0][0]) if found else None, shown)
        super().__init__(columns)

    def count(self, runs: Sequence[str], metric: str) -> list[int | None]:
        """See `DatabaseStore`."""
        return [int(number) for number in self._per_run("count(*)", runs, metric)]

    def fetch(self, runs: Sequence[str], metric: str, axis: str | None) -> Series:
        """See `DatabaseStore`."""
        refuse_axis(axis)
        parts = []
        for run, packed in zip(runs, self._per_run(_PACKED, runs, metric), strict=True):
            points = np.frombuffer(packed or b"", dtype=_POINT)
            step, value = points["step"].astype(np.float64), points["value"].astype(np.float64)
            parts.append(in_order(run, step, restore_infinities(value), points["timestamp"].astype(np.int64)))
        return join_series(parts)

    def _per_run(self, what: str, runs: Sequence[str], metric: str) -> Iterator[Any]:
        """One value for each run, in their order; they come one by one, so that a single one is in memory."""
        query = _PER_RUN.format(what=what)
        for chunk in _chunks(runs, _RUNS_AT_ONCE):
            with self._moment(), self._connection.cursor() as cursor:
                cursor.execute(_NO_COMPILING.encode())
                for (value,) in cursor.stream(query.encode(), (metric, chunk), binary=True):
                    yield value

    def _rows(self, query: str, values: Sequence[object] = ()) -> Iterable[tuple[Any, ...]]:
        # No query has a question mark or a percent sign of its own.
        return self._connection.execute(query.replace("?", "%s").encode(), values)

    def _moment(self) -> AbstractContextManager[object]:
        return self._connection.transaction()

    def _names(self, table: str) -> set[str]:
        return {name for (name,) in self._rows(_COLUMNS, (table,))}


def _chunks(items: Sequence[_T], size: int) -> Iterator[list[_T]]:
    left = iter(items)
    while chunk := list(islice(left, size)):
        yield chunk


def _cause(message: str) -> str:
    """What the server says of the last of several attempts, without the address, which the sentence names already."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["no reason given"]
    text = next((line for line in reversed(lines) if " failed: " in line), lines[0])
    for before in (" failed: ", "FATAL:", "ERROR:"):
        text = text.rpartition(before)[2].strip()
    return shorten(text, _MESSAGE_LIMIT).rstrip(".")
