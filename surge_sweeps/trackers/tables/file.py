"""A CSV or Parquet file as columns of raw values.

Text stays text: nothing is guessed, converted or evaluated here, so that whoever gives a column its meaning can name
what stands in it. A file that is not a table is one sentence and the next step.
"""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from surge_sweeps.errors import SurgeError, UnknownNameError

#: How a table's name ends. A file of any other name is a table too, if it is there.
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".parquet")

_PARQUET_MAGIC = b"PAR1"
_GZIP_MAGIC = b"\x1f\x8b"
_SEPARATORS = (",", "\t", ";")
_HEAD_BYTES = 65536


@dataclass(frozen=True, eq=False)
class RawTable:
    """A file's columns.

    Attributes:
        names: the header as it stands, blanks included; a name may stand twice.
        columns: the values, one column a name, labelled 0, 1, ... Text from a CSV file; from Parquet numbers, booleans
            and text, anything else as its text.
    """

    names: tuple[str, ...]
    columns: pd.DataFrame

    def find(self, name: str) -> int | None:
        """The column of that name: exactly, else apart from blanks around it. None where there is none.

        Raises:
            SurgeError: several columns answer to the name.

        >>> table = RawTable(("lr", " bs "), pd.DataFrame([["0.1", "8"]]))
        >>> table.find("bs"), table.find("BS")
        (1, None)
        """
        for wanted, names in ((name, self.names), (name.strip(), tuple(own.strip() for own in self.names))):
            found = [index for index, own in enumerate(names) if own == wanted]
            if len(found) > 1:
                raise SurgeError(
                    f"the column {name!r} stands {len(found)} times in the table.",
                    "Rename them, so that each has a name of its own.",
                )
            if found:
                return found[0]
        return None

    def get(self, name: str, flag: str) -> int:
        """As `find`, for a column that must be there; `flag` is the option that names it.

        Raises:
            UnknownNameError: there is none; the message lists all columns.
        """
        found = self.find(name)
        if found is None:
            raise UnknownNameError(flag, name, self.names)
        return found


def is_table(project: str) -> bool:
    """Whether a project's name is that of a table: it ends like one, or such a file is there.

    >>> is_table("runs.csv"), is_table("digits-demo")
    (True, False)
    """
    if project.lower().endswith(SUFFIXES):
        return True
    try:
        return Path(project).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def project_name(project: str) -> str:
    """What a project is called: a table by its file's stem, any other by its name.

    >>> project_name("data/runs.csv.gz"), project_name("digits-demo")
    ('runs', 'digits-demo')
    """
    if not is_table(project):
        return project
    name = Path(project).name
    ending = max((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), key=len, default="")
    return name[: len(name) - len(ending)] or name


def read_file(path: Path) -> RawTable:
    """Read a table: Parquet by its name or first bytes, else delimited text in UTF-8, gzipped or not.

    Text is separated by commas, tabs or semicolons, whichever the header holds most of; a `.tsv` by tabs.

    Raises:
        SurgeError: the file is missing, unreadable, empty, without rows, or no table.
    """
    if not path.exists():
        raise SurgeError(f"there is no file {str(path)!r}.", "Check the path; it is seen from this folder.")
    if path.is_dir():
        raise SurgeError(f"{str(path)!r} is a folder.", "Name one CSV or Parquet file in it.")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        is_parquet = head.startswith(_PARQUET_MAGIC) or path.suffix.lower() == ".parquet"
        table = _read_parquet(path) if is_parquet else _read_text(path, head)
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise SurgeError(
            f"{str(path)!r} cannot be read: {why}.", "Check that it is whole and may be read."
        ) from error
    if table.columns.empty:
        raise SurgeError(f"{str(path)!r} has a header and no rows.", "Write one row a run below it.")
    return table


def _read_parquet(path: Path) -> RawTable:
    try:
        table = pq.read_table(path, partitioning=None)
        columns = {index: _plain(column) for index, column in enumerate(table.columns)}
    except pa.ArrowException as error:
        raise SurgeError(
            f"{str(path)!r} is no readable Parquet file: {_first_line(error)}.",
            "Write it again, or write it as CSV.",
        ) from error
    return RawTable(tuple(table.column_names), pd.DataFrame(columns))


def _plain(column: pa.ChunkedArray) -> pd.Series:
    """Numbers, booleans and text as they are, anything else as its text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type))
    if pa.types.is_decimal(kind):
        column, kind = column.cast(pa.float64()), pa.float64()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return pd.Series(column.to_pandas())
    if pa.types.is_boolean(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pd.Series(column.to_pylist(), dtype=object)
    values = [None if value is None else str(value) for value in column.to_pylist()]
    return pd.Series(values, dtype=object)


def _read_text(path: Path, head: bytes) -> RawTable:
    packed = head.startswith(_GZIP_MAGIC)
    if packed:
        with gzip.open(path) as file:
            head = file.read(_HEAD_BYTES)
    if b"\0" in head:
        raise _no_table(path, "it holds zero bytes")
    try:
        table = pd.read_csv(
            path,
            header=None,  # pandas would rename columns that stand twice, and cut rows longer than the header
            dtype=str,
            na_filter=False,
            index_col=False,
            sep=_separator(path, head),
            encoding="utf-8-sig",
            compression="gzip" if packed else None,
            low_memory=False,
        )
    except pd.errors.EmptyDataError as error:
        raise SurgeError(f"{str(path)!r} is empty.", "Write a header and one row a run.") from error
    except pd.errors.ParserError as error:
        raise _no_table(path, _first_line(error)) from error
    except UnicodeError as error:
        raise _no_table(path, "its text is not UTF-8") from error
    names = tuple(str(name) for name in table.iloc[0])
    return RawTable(names, table.iloc[1:].reset_index(drop=True))


def _separator(path: Path, head: bytes) -> str:
    if path.name.lower().endswith(".tsv"):
        return "\t"
    lines = [line for line in head.decode("utf-8", "replace").splitlines() if line.strip()]
    header = re.sub(r'"[^"]*"', "", lines[0]) if lines else ""
    return max(_SEPARATORS, key=header.count)


def _no_table(path: Path, why: str) -> SurgeError:
    other = "" if path.name.lower().endswith(SUFFIXES) else " If an experiment is meant: --tracker mlflow."
    return SurgeError(
        f"{str(path)!r} is no CSV table: {why}.",
        f"Save it as CSV in UTF-8 with a header and as many fields in every row, or as Parquet.{other}",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0].removeprefix("Error tokenizing data. C error: ").rstrip(".") if text else "no reason given"
