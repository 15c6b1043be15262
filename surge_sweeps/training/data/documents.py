"""Documents out of files: plain text, JSON lines and Parquet, read piece by piece, so that no file need fit in memory.

Which field of a record is its text is decided by the first record of the first file, or by the columns of the first
Parquet file; see `record_fields`.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.data.digests import file_digest
from surge_sweeps.training.data.pieces import Piece, cut
from surge_sweeps.training.data.record_fields import Way, text_at, way_in_record, way_in_schema
from surge_sweeps.training.data.text_files import read_records, read_text

_ROWS_AT_ONCE = 256
_RECORDS_LOOKED_AT = 100
_SUFFIXES = {".txt": "text", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class Documents:
    """Files of documents, in a fixed order. A text file is one document, a record of the others is one.

    Attributes:
        name: what the user calls them.
        files: read in this order. kind: `text`, `json` or `parquet`, of all of them.
        field: of a record, with dots; None: chosen by the rule above.

    Documents without a character are left out. Records of single lines, each with its line break, are no documents of
    their own: those of a file are one (WikiText's Parquet files). The first 100 records decide.
    """

    name: str
    files: tuple[Path, ...]
    kind: str
    field: str | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the files' content and of how it is read."""
        parts = [self.kind, self.field, *(file_digest(path) for path in self.files)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @cached_property
    def size_bytes(self) -> int:
        """Of the text in UTF-8; all of it is read."""
        return sum(len(piece.text.encode()) for piece in self.pieces())

    def pieces(self) -> Iterator[Piece]:
        """The documents' text, piece by piece.

        Raises:
            TrainingError: a file that is torn or cannot be read, bytes that are not UTF-8, a record without text; the
                message says where.
        """
        for path in self.files:
            with _readable(path, self.kind):
                for document in self._documents(path):
                    starts_document = True
                    for text in cut(document):
                        yield Piece(text, starts_document)
                        starts_document = False

    def _documents(self, path: Path) -> Iterator[Iterable[str]]:
        if self.kind == "text":
            yield read_text(path)
        elif self._records_are_lines:
            yield self._texts(path)
        else:
            yield from ((text,) for text in self._texts(path))

    def _texts(self, path: Path) -> Iterator[str]:
        """Of the records of a file."""
        if self.kind == "parquet":
            column, *way = self._way
            for where, value in _rows(path, column):
                yield text_at(value, tuple(way), where)
        else:
            for where, record in read_records(path):
                yield text_at(record, self._way, where)

    @cached_property
    def _records_are_lines(self) -> bool:
        texts = chain.from_iterable(self._texts(path) for path in self.files)
        first = list(islice(filter(None, texts), _RECORDS_LOOKED_AT))
        return bool(first) and all(text.find("\n") == len(text) - 1 for text in first)

    @cached_property
    def _way(self) -> Way:
        """To the text of a record; () where there is no record at all."""
        for path in self.files:
            with _readable(path, self.kind):
                if self.kind == "parquet":
                    return way_in_schema(pq.read_schema(path), self.field, str(path))
                for where, record in read_records(path):
                    return way_in_record(record, self.field, where)
        return ()


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0].rstrip(".")
        raise TrainingError(
            f"{str(path)!r} cannot be read as {_KINDS[kind]}: {reason}.",
            "Fetch or write the file again, whole.",
        ) from error


_KINDS = {"text": "text", "json": "JSON lines", "parquet": "Parquet"}


def find_documents(path: Path, field: str | None = None) -> Documents:
    """The documents of a file, of a folder and all folders in it, or of the files that a pattern with `*` names.

    A file is read by its suffix: .jsonl and .json (one object a line, or one list of objects), .parquet, and anything
    else as plain UTF-8 text; .gz behind it unpacks it. Of a folder, only .txt, .json, .jsonl and .parquet files count,
    and no hidden ones. Files are taken in the order of their paths.

    Raises:
        TrainingError: nothing is there, or files of several kinds.
    """
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = [file for file in path.rglob("*") if _kind(file) and not _is_hidden(file.relative_to(path))]
    else:
        found = [Path(one) for one in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - of absolute paths too
    files = tuple(sorted(file for file in found if file.is_file()))
    if not files:
        raise TrainingError(
            f"{str(path)!r} {'holds no text' if path.is_dir() else 'is not there'}.",
            f"Give a text file, or a folder or pattern of files: {', '.join(_SUFFIXES)}, .txt.gz, .json.gz, .jsonl.gz.",
        )
    return as_documents(str(path), files, field)


def as_documents(name: str, files: tuple[Path, ...], field: str | None = None) -> Documents:
    """The documents of files, in this order.

    Raises:
        TrainingError: files of several kinds.
    """
    kinds = sorted({_kind(file) or "text" for file in files})
    if len(kinds) > 1:
        raise TrainingError(
            f"{name!r} holds files of several kinds: {', '.join(_KINDS[kind] for kind in kinds)}.",
            "Name those of one kind by a pattern, as in 'FOLDER/**/*.txt'.",
        )
    return Documents(name, files, kinds[0], field)


def _kind(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        return _SUFFIXES.get(suffixes[-2]) if len(suffixes) > 1 and suffixes[-2] != ".parquet" else None
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _rows(path: Path, column: str) -> Iterator[tuple[str, object]]:
    """The values of a column, each with where it is."""
    with pq.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            raise TrainingError(
                f"{str(path)!r} has no column {column!r}.", "Give every file the same column of text."
            )
        row = 0
        # Parquet splits a nested column into leaves, all of which the column's name selects.
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[column]):
            for value in batch.column(0).to_pylist():
                row += 1
                yield f"{path}, row {row}", value
