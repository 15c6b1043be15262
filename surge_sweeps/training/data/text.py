"""The text that a trial trains on and the text it is held against, by what the user calls them.

Without a held-out text of its own, the end of the text is held out: its last tenth, but at most `HELD_OUT_BYTES` (so
at most about a million tokens). That is a matter of the text alone: every tokenizer is held against the same words, and
none has seen them. Files that are named after parts (`train.txt` beside `valid.txt`) are divided so, see `divide`: of
a validation and a test part, the validation part is the held-out text.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from surge_sweeps.errors import TrainingError, did_you_mean
from surge_sweeps.training.data.digests import content_digest
from surge_sweeps.training.data.documents import Documents, as_documents, find_documents
from surge_sweeps.training.data.hub import PREFIX, hub_files
from surge_sweeps.training.data.known import KNOWN, find_known
from surge_sweeps.training.data.parts import divide
from surge_sweeps.training.data.pieces import Piece
from surge_sweeps.training.data.places import data_folder, find_path

#: One in so many bytes of UTF-8 is held out, at the end of the text,
HELD_OUT_ONE_IN = 10
#: but not more than this many.
HELD_OUT_BYTES = 2**20


@dataclass(frozen=True)
class Text:
    """Documents, or their beginning or end.

    Attributes:
        documents: where the text comes from.
        part: `all`; `training`: all but the held-out end; `held-out`: that end. A document may be cut between two
            characters.
    """

    documents: Documents
    part: Literal["all", "training", "held-out"] = "all"

    @cached_property
    def digest(self) -> str:
        """Changes whenever the text may change."""
        split = "" if self.part == "all" else f" {self.part} 1/{HELD_OUT_ONE_IN} {HELD_OUT_BYTES}"
        return self.documents.digest + split

    def pieces(self) -> Iterator[Piece]:
        """The text, piece by piece; see `Documents.pieces`."""
        if self.part == "all":
            return self.documents.pieces()
        size = self.documents.size_bytes
        border = size - min(size // HELD_OUT_ONE_IN, HELD_OUT_BYTES)
        return _before(self.documents, border) if self.part == "training" else _after(self.documents, border)


def find_texts(data: str, eval_data: str | None = None) -> tuple[Text, Text]:
    """The training text and the held-out text.

    Args:
        data: the name of a known data set, `hf:OWNER/NAME@COMMIT/PATTERN`, or the path of a file, folder or pattern of
            files, relative ones in the data folder. `#FIELD` behind it names the field of the records that is the text.
        eval_data: likewise; of one with a held-out part, that part. None: that of `data`, else its end.

    Raises:
        UnknownNameError, TrainingError: there is nothing of that name here, or both have a file in common; or it is not
            clear which files are to train on.
        MissingExtraError: a package that is needed is not installed.
    """
    training, held_out = _parts(data)
    if eval_data is not None:
        training_of_eval, held_out_of_eval = _parts(eval_data)
        held_out = held_out_of_eval or training_of_eval
    if held_out is None:
        return Text(training, "training"), Text(training, "held-out")
    _check_apart(held_out, training)
    return Text(training), Text(held_out)


def _check_apart(held_out: Documents, training: Documents) -> None:
    """Refuse a held-out text that is trained on. What files hold tells, whatever they are called, packed or not."""
    trained = {content_digest(path): path for path in training.files}
    trained.pop(None, None)
    for path in held_out.files:
        same = trained.get(content_digest(path))
        if same is not None:
            what = (
                "is trained on too"
                if same == path
                else f"has the content of {str(same)!r}, which is trained on"
            )
            raise TrainingError(
                f"{str(path)!r} of the held-out text {held_out.name!r} {what}.",
                "Leave eval_data out to hold out the end of the text, or name other files to train or to evaluate on.",
            )


def _parts(data: str) -> tuple[Documents, Documents | None]:
    """The documents to train on, and the held-out ones that come with them."""
    data, field = _without_field(data)
    if data in KNOWN:
        found = find_known(data, "text")
        held_out = as_documents(f"{data}, held out", found.held_out, field) if found.held_out else None
        return as_documents(data, found.train, field), held_out
    if data.startswith(PREFIX):
        return _divided(as_documents(data, hub_files(data), field))
    path = find_path(data)
    if not path.exists() and not glob.has_magic(data):
        names = sorted(name for name, known in KNOWN.items() if known.kind == "text")
        raise TrainingError(
            f"{str(path)!r} is not there.",
            f"Give the path of a text, absolute or in {str(data_folder())!r} or in this folder, or a known data set:"
            f" {', '.join(names)}.{did_you_mean(data, names)}",
        )
    return _divided(find_documents(path, field))


def _divided(found: Documents) -> tuple[Documents, Documents | None]:
    train, held_out = divide(found.files, repr(found.name), is_test_first=False)
    if not held_out:
        return found, None
    return replace(found, files=train), replace(found, name=f"{found.name}, held out", files=held_out)


def _without_field(data: str) -> tuple[str, str | None]:
    """Data and the field named behind it; a file's own name may hold a `#`."""
    before, mark, field = data.rpartition("#")
    if not mark or not before or not field or find_path(data).exists():
        return data, None
    return before, field


def _before(documents: Documents, border: int) -> Iterator[Piece]:
    position = 0
    for piece in documents.pieces():
        head, _ = _cut_at(piece, border - position)
        if head.text:
            yield head
        position += len(piece.text.encode())
        if position >= border:
            return


def _after(documents: Documents, border: int) -> Iterator[Piece]:
    position = 0
    for piece in documents.pieces():
        end = position + len(piece.text.encode())
        if end > border:
            _, tail = _cut_at(piece, border - position)
            if tail.text:
                yield tail
        position = end


def _cut_at(piece: Piece, place: int) -> tuple[Piece, Piece]:
    """Before and after the last place between characters at or before a byte."""
    data = piece.text.encode()
    place = max(0, min(place, len(data)))
    # Every byte of a character but its first begins with the bits 10.
    while 0 < place < len(data) and data[place] & 0b1100_0000 == 0b1000_0000:
        place -= 1
    head, tail = data[:place].decode(), data[place:].decode()
    return Piece(head, piece.starts_document), Piece(tail, piece.starts_document and not head)
