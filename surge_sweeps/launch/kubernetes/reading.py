"""Parts of documents that others wrote, taken without trust in their shape; and text of servers, made safe to show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from surge_sweeps.launch.one_line import one_line

Document = dict[str, Any]


def part(document: object, *keys: str) -> Document:
    """The object at a path; empty where there is none.

    >>> part({"spec": {"template": {"a": 1}}}, "spec", "template"), part({"spec": 3}, "spec")
    ({'a': 1}, {})
    """
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document if isinstance(document, dict) else {}


def items(document: object, key: str) -> list[Document]:
    """The objects of a list; empty where there is none.

    >>> items({"rules": [{"a": 1}, 2]}, "rules"), items({}, "rules")
    ([{'a': 1}], [])
    """
    found = document.get(key) if isinstance(document, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def last_line(text: object) -> str:
    r"""The last line that holds anything, made safe to show.

    >>> last_line("one\nthe script failed\n\n")
    'the script failed'
    """
    lines = [line for line in str(text).splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else ""


def parse_indexes(text: object) -> set[int]:
    """The indexes of a Job's status, "1,3-5"; what is none is passed over.

    >>> sorted(parse_indexes("1,3-5,7")), parse_indexes(None)
    ([1, 3, 4, 5, 7], set())
    """
    return set(_indexes(text)) if isinstance(text, str) else set()


def _indexes(text: str) -> Iterator[int]:
    for piece in text.split(","):
        first, _, last = piece.partition("-")
        if first.isdecimal() and (last.isdecimal() or not last):
            yield from range(int(first), int(last or first) + 1)


def format_indexes(indexes: set[int]) -> str:
    """As a Job's status writes them.

    >>> format_indexes({1, 3, 4, 5, 7})
    '1,3-5,7'
    """
    pieces: list[list[int]] = []
    for index in sorted(indexes):
        if pieces and index == pieces[-1][1] + 1:
            pieces[-1][1] = index
        else:
            pieces.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in pieces)
