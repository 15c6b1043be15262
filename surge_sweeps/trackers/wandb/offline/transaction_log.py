"""The framing of W&B's `.wandb` files: records, each whole and with its checksum right, as far as a file goes.

The format is LevelDB's log behind a header of 7 bytes: blocks of 32 KiB, each a row of chunks. A chunk has a header of
7 bytes (CRC-32 of what follows the length, length, kind) and never crosses a block; a record that does not fit is cut
into a first, middle and last chunk. What a record holds is not known here.

A client that was killed leaves a file that ends anywhere, and one that still writes leaves whole blocks only: both are
read up to the last whole record.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from surge_sweeps.errors import TrackerError

#: The header: a mark, a number that tells W&B's format from others', and the format's version.
_MARK, _MAGIC = b":W&B", 0xBEE1
VERSION = 0

_HEADER = struct.Struct("<4sHB")
_CHUNK = struct.Struct("<IHB")
_BLOCK = 32768
#: Where the kind stands in a chunk's header: the checksum is over it and what follows.
_KIND_AT = 6
_KINDS = _FULL, _FIRST, _MIDDLE, _LAST = (1, 2, 3, 4)


class UnknownLogError(TrackerError):
    """The file's header is none that is known here; another reader may know it."""


class Ending(NamedTuple):
    """How a file ended: `complete`, `torn` (cut off, or still being written), or `corrupt` (its bytes were changed).

    `byte` is where the part that could be read ends; `reason` says what stands there, empty for `complete`.
    """

    kind: Literal["complete", "torn", "corrupt"]
    byte: int
    reason: str = ""


class TransactionLog:
    """One `.wandb` file.

    Args:
        path: the file.

    Attributes:
        ending: how the file ended, once `records` has come to its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ending: Ending | None = None

    def records(self) -> Iterator[bytes]:
        """The records in order, up to the first place that cannot be read; what is there says `ending`.

        A file that grows meanwhile is read up to where it ended when its last block was reached.

        Raises:
            UnknownLogError: no `.wandb` file, or a version that is not known here.
            OSError: the file cannot be opened or read.
        """
        self.ending = None
        with self.path.open("rb", buffering=32 * _BLOCK) as file:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size and _HEADER.pack(_MARK, _MAGIC, VERSION).startswith(header):
                self.ending = Ending("torn", 0, "the header is not whole")
                return
            _check_header(self.path, header)
            self.ending = yield from _records(file, header)


def _check_header(path: Path, header: bytes) -> None:
    mark, magic, version = _HEADER.unpack(header) if len(header) == _HEADER.size else (header, 0, 0)
    if mark != _MARK or magic != _MAGIC:
        raise UnknownLogError(
            f"{str(path)!r} is no .wandb file.", "Give a folder of W&B runs, or one of them."
        )
    if version != VERSION:
        raise UnknownLogError(
            f"{str(path)!r} has version {version} of W&B's file format, and only {VERSION} is known here.",
            "Upgrade surge-sweeps.",
        )


def _records(file: BinaryIO, header: bytes) -> Generator[bytes, None, Ending]:
    parts: list[bytes] = []
    block_start, at, begun = 0, len(header), len(header)
    block = header + file.read(_BLOCK - len(header))
    while True:
        while at + _CHUNK.size <= len(block):
            crc, length, kind = _CHUNK.unpack_from(block, at)
            end = at + _CHUNK.size + length
            whole = end <= len(block) and zlib.crc32(block[at + _KIND_AT : end]) == crc
            if not whole or (kind in (_FULL, _FIRST)) == bool(parts) or kind not in _KINDS:
                # A record whose first chunks are whole is lost with its last one.
                where = block_start + at
                return _explain(begun if parts else where, where, (crc, length, kind), end, len(block), whole)
            data = block[at + _CHUNK.size : end]
            if kind == _FULL:
                yield data
            elif kind == _LAST:
                yield b"".join((*parts, data))
                parts.clear()
            else:
                begun = begun if parts else block_start + at
                parts.append(data)
            at = end
        if len(block) < _BLOCK:
            break
        block_start, at = block_start + _BLOCK, 0
        block = file.read(_BLOCK)
    if parts:
        return Ending("torn", begun, "a record is not whole")
    if at < len(block) and at + _CHUNK.size <= _BLOCK:
        return Ending("torn", block_start + at, "the head of a record is not whole")
    return Ending("complete", block_start + len(block))


def _explain(
    readable: int, where: int, chunk: tuple[int, int, int], end: int, block_size: int, whole: bool
) -> Ending:
    """Why a chunk cannot be used.

    Args:
        readable: where the last whole record ends. where: where the chunk begins. chunk: its header.
        end: where it should end in its block. block_size: what there is of the block. whole: its checksum is right.
    """
    if chunk == (0, 0, 0):
        return Ending("torn", readable, "there are zeros instead of a record")
    if block_size < end <= _BLOCK:
        return Ending("torn", readable, "a record is not whole")
    if end > _BLOCK:
        return Ending("corrupt", readable, f"the record at byte {where} is longer than its block")
    if not whole:
        return Ending("corrupt", readable, f"the checksum of the record at byte {where} is wrong")
    return Ending("corrupt", readable, f"the piece of a record at byte {where} fits no record")
