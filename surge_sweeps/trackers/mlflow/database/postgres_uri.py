"""The address of a database in PostgreSQL, as SQLAlchemy and so MLflow writes it, for psycopg."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote

from surge_sweeps.errors import TrackerError

_URI = re.compile(
    r"postgresql(?:\+\w+)?://"
    r"(?:(?P<user>[^:/@]*)(?::(?P<password>[^@]*))?@)?"
    r"(?:\[(?P<ipv6>[^/?\]]+)\]|(?P<host>[^/:?]*))(?::(?P<port>[^/?]*))?"
    r"(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_CONNECT_WAIT_S = "10"


def is_postgres(uri: str) -> bool:
    """Whether the URI names a database in PostgreSQL, by whatever driver.

    >>> is_postgres("postgresql+psycopg2://me@host/runs"), is_postgres("mysql://me@host/runs")
    (True, False)
    """
    return re.match(r"postgresql(\+\w+)?:", uri) is not None


def connection_options(uri: str) -> dict[str, str]:
    """The URI's parts as psycopg takes them; what it leaves out, libpq takes from its own environment and files.

    Raises:
        TrackerError: the URI cannot be read; the message does not show it, since it may hold a password.

    >>> connection_options("postgresql+psycopg2://me:a%40b@db.example:5433/runs?sslmode=require")["password"]
    'a@b'
    >>> connection_options("postgresql:///runs?host=/run/postgresql")
    {'connect_timeout': '10', 'dbname': 'runs', 'host': '/run/postgresql'}
    """
    found = _URI.fullmatch(uri)
    if found is None or "@" in (found["host"] or ""):
        raise TrackerError(
            "the address of the PostgreSQL store cannot be read.",
            "Write it as postgresql://user:password@host:port/database; in a password, write @ as %40, : as %3A, "
            "/ as %2F and % as %25.",
        )
    options = {"connect_timeout": _CONNECT_WAIT_S}
    parts = {
        "user": found["user"],
        "password": found["password"],
        "host": found["ipv6"] or found["host"],
        "port": found["port"],
        "dbname": found["database"],
    }
    options |= {name: unquote(text) for name, text in parts.items() if text}
    query = parse_qsl(found["query"] or "", keep_blank_values=True)
    hosts = [host for name, text in query if name == "host" for host in text.split(",")]
    options |= {name: text for name, text in query if name != "host"}
    return options | _hosts(hosts)


def display_postgres(options: dict[str, str]) -> str:
    """The database without user, password and options.

    >>> display_postgres({"host": "db.example", "port": "5433", "user": "me", "password": "x", "dbname": "runs"})
    'postgresql://db.example:5433/runs'
    """
    port = f":{options['port']}" if "port" in options else ""
    return f"postgresql://{options.get('host', '')}{port}/{options.get('dbname', '')}"


def _hosts(given: list[str]) -> dict[str, str]:
    """Hosts of the query: several, with or without a port, as SQLAlchemy takes them."""
    if not given:
        return {}
    if len(given) == 1 and (given[0].startswith("/") or ":" not in given[0]):
        return {"host": given[0]}
    pairs = [host.partition(":") for host in given]
    ports = ",".join(port for _, _, port in pairs)
    options = {"host": ",".join(host for host, _, _ in pairs)}
    return options | ({"port": ports} if ports.strip(",") else {})
