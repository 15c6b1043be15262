"""Files of UTF-8 text, and of JSON objects, read a part at a time; .gz files are unpacked on the way."""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import cast

from surge_sweeps.errors import TrainingError

_BLOCK_BYTES = 2**20
_TORN = (EOFError, zlib.error, gzip.BadGzipFile)
_SPACE = re.compile(r"[ \t\n\r]*")


def read_text(path: Path) -> Iterator[str]:
    """The text of a file, block by block.

    Raises:
        TrainingError: bytes that are not UTF-8, or a file that is torn; the message says where.
        OSError: the file cannot be read.
    """
    rest = b""
    done = 0
    with _open(path) as file:
        while True:
            try:
                # One block may be less than asked for, but none is lost where the file is torn.
                block = file.read1(_BLOCK_BYTES)
            except _TORN as error:
                raise _torn(path, f"byte {done + len(rest)} of the text") from error
            data = rest + block
            try:
                text, used = codecs.utf_8_decode(data, "strict", not block)
            except UnicodeDecodeError as error:
                raise TrainingError(
                    f"{str(path)!r} is not UTF-8 text: byte {done + error.start} is 0x{data[error.start]:02x}.",
                    "Convert it to UTF-8.",
                ) from error
            yield text
            if not block:
                return
            rest = data[used:]
            done += used


def read_records(path: Path) -> Iterator[tuple[str, object]]:
    """The objects of a JSON file, each with where it is: one a line, or all in one list.

    Raises:
        TrainingError: anything but objects, or a file that is torn; the message says where.
        OSError: the file cannot be read.
    """
    if _begins_list(path):
        for number, item in enumerate(_items(path), start=1):
            yield _checked(item, f"{path}, item {number}")
        return
    with _open(path) as file:
        for number, line in enumerate(_lines(file, path), start=1):
            if line.strip():
                where = f"{path}, line {number}"
                yield _checked(_parsed(line, where), where)


def _begins_list(path: Path) -> bool:
    with _open(path) as file:
        try:
            while block := file.read1(2**12):
                if beginning := block.lstrip():
                    return beginning.startswith(b"[")
        except _TORN:
            # Told with its place when it is read.
            pass
    return False


def _items(path: Path) -> Iterator[object]:
    """The items of a JSON list, one after another: the list may be larger than memory."""
    decoder = json.JSONDecoder()
    blocks = read_text(path)
    text = next(filter(str.strip, blocks))
    place = text.index("[") + 1
    number = 0
    while True:
        try:
            place = _past_space(text, place)
            if not number and text.startswith("]", place):
                return
            item, end = decoder.raw_decode(text, place)
            end = _past_space(text, end)
            if end == len(text):
                raise ValueError("the list has no end")
        except (ValueError, RecursionError) as error:
            # An item that is only begun is tried again with more of the file.
            more = next(filter(None, blocks), None)
            if more is None:
                raise _no_list(f"{path}, item {number + 1} is not JSON: {error}.") from error
            text, place = text[place:] + more, 0
            continue
        number += 1
        yield item
        if text[end] == "]":
            return
        if text[end] != ",":
            raise _no_list(f"{path}, item {number} is followed by {text[end]!r}.")
        place = end + 1


def _past_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _no_list(what: str) -> TrainingError:
    return TrainingError(what, "Mend the file, or fetch it again.")


def _parsed(data: bytes, where: str) -> object:
    try:
        return cast(object, json.loads(data))
    except UnicodeDecodeError as error:
        raise TrainingError(
            f"{where} has bytes that are not UTF-8 text, at byte {error.start} of it.",
            "Convert the file to UTF-8.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise TrainingError(
            f"{where} is not JSON: {error}.", "Mend the line, or fetch the file again."
        ) from error


def _checked(record: object, where: str) -> tuple[str, object]:
    if not isinstance(record, dict):
        raise TrainingError(f"{where} is not a JSON object.", "Write one JSON object a line.")
    return where, record


def _lines(file: Iterable[bytes], path: Path) -> Iterator[bytes]:
    number = 0
    try:
        for line in file:
            number += 1
            yield line
    except _TORN as error:
        raise _torn(path, f"line {number + 1}") from error


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _torn(path: Path, where: str) -> TrainingError:
    return TrainingError(
        f"{str(path)!r} is torn: it cannot be unpacked from {where} on.",
        "Fetch or write the file again, whole.",
    )
