"""Small values every part shares: JSON types, identifiers, times, numbers that JSON cannot write."""

from __future__ import annotations

import base64
import json
import math
import secrets
import string
from datetime import UTC, datetime
from typing import Any

JsonObject = dict[str, Any]
"""A decoded JSON object: GraphQL variables, an answer, a row of a history."""

ALPHABET = string.ascii_lowercase + string.digits


def new_id(length: int = 8) -> str:
    """A random name as W&B makes them for runs and sweeps."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def graphql_id(kind: str, *parts: object) -> str:
    """An opaque GraphQL identifier: base64 of ``kind:part:part``."""
    return base64.b64encode(":".join([kind, *map(str, parts)]).encode()).decode()


def iso_time(seconds: float) -> str:
    """Seconds since the epoch, written as the server writes times: without a time zone, in UTC.

    >>> iso_time(0.0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def spell_number(value: Any) -> Any:
    """A float as JSON can carry it: W&B writes NaN and the infinities as strings.

    >>> spell_number(float("nan")), spell_number(float("-inf")), spell_number(0.5)
    ('NaN', '-Infinity', 0.5)
    """
    if not isinstance(value, float) or math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def spell_numbers(value: Any) -> Any:
    """``spell_number`` through dictionaries and lists."""
    if isinstance(value, dict):
        return {key: spell_numbers(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [spell_numbers(each) for each in value]
    return spell_number(value)


def parse_json(text: str | bytes) -> Any:
    """JSON as the client writes it: bare NaN and Infinity tokens become strings of that name."""
    return json.loads(text, parse_constant=str)
