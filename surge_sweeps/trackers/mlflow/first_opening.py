"""Opening a PostgreSQL store: one process at a time, and at once an error where nothing answers.

MLflow makes the tables of a new database when it opens it. Processes that open it together stumble over each other's
tables, and one that cannot connect tries for 100 s in silence. A SQLite file has its own way, see `file`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from surge_sweeps.extras import require

#: Of no meaning but to be the same in every process: "surge" in bytes.
_LOCK_KEY = int.from_bytes(b"surge", "big")
_LOCK_WAIT = "180s"
_CONNECT_TIMEOUT_S = 15
#: Drivers that take libpq's options.
_LIBPQ_DRIVERS = ("psycopg", "psycopg2")


@contextmanager
def one_at_a_time(uri: str) -> Iterator[None]:
    """Hold the database's lock for opening it while the block runs; does nothing for another kind of store.

    Raises:
        SQLAlchemyError: it cannot be reached, or another process holds the lock for three minutes.
        ImportError: the database's driver is not installed.
    """
    if urlsplit(uri).scheme.partition("+")[0] not in ("postgresql", "postgres"):
        yield
        return
    sqlalchemy = require("sqlalchemy", "mlflow")
    libpq = sqlalchemy.engine.make_url(uri).get_driver_name() in _LIBPQ_DRIVERS
    engine = sqlalchemy.create_engine(
        uri,
        poolclass=require("sqlalchemy.pool", "mlflow").NullPool,
        connect_args={"connect_timeout": _CONNECT_TIMEOUT_S} if libpq else {},
    )
    # The lock ends with the transaction, so that it is never left behind, not even through a pool of connections.
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'"))
        connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})"))
        yield
