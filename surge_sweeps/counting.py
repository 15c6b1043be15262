"""Numbers of things in words."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number with its noun in the right form.

    >>> counted(1, "run"), counted(1200, "run"), counted(2, "batch size"), counted(2, "loss")
    ('1 run', '1,200 runs', '2 batch sizes', '2 losses')
    """
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"
