"""A real PostgreSQL cluster on loopback, made by `initdb` for the tests alone and run by a user other than root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from mlflow_stores.server import free_port

USER = "surge"
PASSWORD = "not a secret:/@%"
_TEMPLATE = "mlflow_template"
_STOP_LIMIT_S = 60


def postgres_missing() -> str:
    """Why no cluster can be made here; empty where one can."""
    if _program("initdb") is None or _program("pg_ctl") is None:
        return "no PostgreSQL server here (initdb, pg_ctl): apt-get install postgresql"
    if os.geteuid() == 0 and _account() is None:
        return "PostgreSQL does not run as root, and there is no user postgres or nobody to run it"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed: pip install 'psycopg[binary]'"
    return ""


class Postgres:
    """A running cluster that takes connections with a password alone; a context manager.

    `database` gives each test an MLflow store of its own: a copy of one that MLflow has made once.

    Args:
        keeps_commits: what was committed outlives a crash of the server, as in every real one; slower.
    """

    def __init__(self, *, keeps_commits: bool = False) -> None:
        self._keeps_commits = keeps_commits
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="surge-postgres-"))
        self._count = 0

    def __enter__(self) -> Postgres:
        account = _account() if os.geteuid() == 0 else None
        if account is not None:
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        password = self._folder / "password"
        password.write_text(f"{PASSWORD}\n")
        password.chmod(0o644)
        self._run(
            "initdb", "--pgdata", self._data, "--username", USER, "--pwfile", str(password),
            "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale", "--no-sync",
        )  # fmt: skip
        # Nothing here outlives the tests, so nothing has to reach the disk; the crash of a server, unlike that of its
        # machine, leaves what is on the way there.
        with (Path(self._data) / "postgresql.conf").open("a") as settings:
            settings.write(
                f"listen_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = ''\n"
                f"fsync = off\nfull_page_writes = off\nmax_connections = 200\n"
                f"synchronous_commit = {'on' if self._keeps_commits else 'off'}\n"
            )
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        log = str(self._folder / "server.log")
        self._run("pg_ctl", "start", "--wait", "--silent", "--pgdata", self._data, "--log", log)

    def stop(self, mode: str = "fast") -> None:
        """End the server: `fast`, or `immediate`, which is what a crash is to it."""
        self._run("pg_ctl", "stop", "--wait", "--silent", "--mode", mode, "--pgdata", self._data)

    def address(self, database: str, *, user: str = USER, password: str = PASSWORD) -> str:
        """The URI of a database, as SQLAlchemy takes it."""
        from urllib.parse import quote

        return f"postgresql+psycopg://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def empty_database(self) -> str:
        """Make a database with nothing in it; returns its URI."""
        return self._create("TEMPLATE template1")

    def database(self) -> str:
        """Make a database that is an empty MLflow store; returns its URI."""
        self._make_template()
        return self._create(f"TEMPLATE {_TEMPLATE}")

    def _make_template(self) -> None:
        if self._sql(f"SELECT 1 FROM pg_database WHERE datname = '{_TEMPLATE}'"):
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        self._sql(f"CREATE DATABASE {_TEMPLATE}")
        # A database that someone is connected to is no template.
        SqlAlchemyStore(self.address(_TEMPLATE), str(self._folder / "unused")).engine.dispose()

    def _create(self, how: str) -> str:
        self._count += 1
        name = f"store_{self._count}"
        self._sql(f"CREATE DATABASE {name} {how}")
        return self.address(name)

    def _sql(self, statement: str) -> list[tuple[object, ...]]:
        import psycopg

        connection = psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname="postgres", autocommit=True
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(statement.encode())
            return [] if cursor.description is None else cursor.fetchall()

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def _run(self, program: str, *arguments: str) -> None:
        account = _account() if os.geteuid() == 0 else None
        identity = {} if account is None else {"user": account.pw_uid, "group": account.pw_gid}
        found = subprocess.run(
            [_program(program) or program, *arguments],
            cwd=self._folder,
            # pg_ctl leaves its server behind, which must not hold a pipe that somebody reads.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_STOP_LIMIT_S,
            check=False,
            **identity,  # type: ignore[call-overload]
        )
        if found.returncode != 0:
            log = self._folder / "server.log"
            raise RuntimeError(f"{program} failed: {log.read_text() if log.exists() else found.returncode}")


def _program(name: str) -> str | None:
    """A program of the server: Debian keeps them out of the PATH."""
    if found := shutil.which(name):
        return found
    versions = Path("/usr/lib/postgresql")
    places = sorted(versions.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    return str(places[-1]) if places else None


def _account() -> pwd.struct_passwd | None:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None
