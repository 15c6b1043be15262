"""Text in pieces of a bounded length, cut where no tokenizer of words joins anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

#: Characters of a piece at most.
PIECE_CHARACTERS = 2**16


class Piece(NamedTuple):
    """Some text of a document, never empty, at most `PIECE_CHARACTERS` long.

    A document is cut in front of a space or a line break that follows another character, where no tokenizer of words
    joins anything, so that its pieces give the tokens of the whole.
    """

    text: str
    starts_document: bool


def cut(blocks: Iterable[str], size: int = PIECE_CHARACTERS) -> Iterator[str]:
    """The text of blocks in pieces of at most `size` characters, see `Piece`; the same however the blocks are cut.

    A stretch of `size` characters without a place to cut is cut at its end.

    >>> list(cut(["one two", " three"], size=8))
    ['one two', ' three']
    """
    waiting: list[str] = []
    characters = 0
    for block in blocks:
        waiting.append(block)
        characters += len(block)
        if characters <= size:
            continue
        text = "".join(waiting)
        start = 0
        while len(text) - start > size:
            stop = _place_to_cut(text, start, start + size)
            yield text[start:stop]
            start = stop
        waiting, characters = [text[start:]], len(text) - start
    if characters:
        yield "".join(waiting)


def _place_to_cut(text: str, start: int, stop: int) -> int:
    place = stop + 1
    while (place := max(text.rfind(" ", start + 1, place), text.rfind("\n", start + 1, place))) > start:
        if not text[place - 1].isspace():
            return place
    return stop
