"""Tokens of a text as one array on disk, made once, and examples out of it without a loop in Python.

The array is a .npy file of 16 or 32 bit unsigned integers, which is mapped into memory, not read: texts larger than
memory work. Between documents, and only there, stands the end-of-text token.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.counting import counted
from surge_sweeps.errors import TrainingError
from surge_sweeps.progress import ProgressCallback, no_progress
from surge_sweeps.training.data.kept_values import kept_value
from surge_sweeps.training.data.making import making
from surge_sweeps.training.data.pieces import Piece
from surge_sweeps.training.data.text import Text
from surge_sweeps.training.data.tokenizers import Tokenizer

#: Characters that are tokenised at once: enough for all cores, little enough to be held.
_CHARACTERS_AT_ONCE = 2**22
#: Changes with how tokens are laid out, so that none of another layout are taken for these.
_LAYOUT = 2
_SHA256 = re.compile("[0-9a-f]{64}")


class Tokens(NamedTuple):
    """The tokens of a text.

    Attributes:
        numbers: (tokens,), read-only and mapped from disk.
        digest: SHA-256 of them, in hexadecimal; the same on every machine.
    """

    numbers: NDArray[Any]
    digest: str


def token_dtype(vocabulary: int) -> np.dtype[Any]:
    """The smallest type of the store that holds every token number.

    Raises:
        TrainingError: a vocabulary of more than 2**32 tokens, or of none.

    >>> token_dtype(50_257), token_dtype(100_277)
    (dtype('uint16'), dtype('uint32'))
    """
    if not 1 <= vocabulary <= 2**32:
        raise TrainingError(
            f"a vocabulary of {vocabulary} tokens cannot be kept in 32 bits a token.",
            "Take a tokenizer of 1 to 2**32 tokens.",
        )
    return np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)


def tokenize(text: Text, tokenizer: Tokenizer) -> Tokens:
    """All tokens of a text; made now, or earlier by any process.

    Raises:
        TrainingError: the text is empty or cannot be read, the vocabulary is too large, several documents but no
            end-of-text token to stand between them, or a cache folder that cannot be used.
    """
    dtype = token_dtype(tokenizer.vocabulary)
    key = {"text": text.digest, "tokenizer": tokenizer.digest, "layout": _LAYOUT}

    def make(folder: Path) -> None:
        # The held-out end of a text is little, and comes after the rest of it.
        with (
            nullcontext(no_progress)
            if text.part == "held-out"
            else making("tokenising", f"{_described(text)} as {tokenizer.name}") as progress,
            (folder / "tokens.npy").open("wb") as file,
        ):
            digest = _write(file, dtype, _encoded(text, tokenizer, progress))
        if digest is None:
            raise TrainingError(
                f"{text.documents.name!r} holds no {_PARTS[text.part]}.", "Give a longer text."
            )
        (folder / "digest.txt").write_text(digest, encoding="ascii")

    return kept_value("tokens", key, make, lambda folder: _read(folder, dtype))


_PARTS = {"all": "text", "training": "text to train on", "held-out": "text to hold out"}


def _described(text: Text) -> str:
    """Which files a text is in, and how large they are."""
    files = text.documents.files
    size = sum(path.stat().st_size for path in files if path.exists())
    return f"the text of {text.documents.name!r} ({counted(len(files), 'file')}, {size:,} bytes)"


def _read(folder: Path, dtype: np.dtype[Any]) -> Tokens | None:
    """What is in a folder; None: it is not there, or not whole."""
    try:
        tokens = np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
        digest = (folder / "digest.txt").read_text(encoding="ascii")
    except (FileNotFoundError, ValueError, EOFError):
        return None
    # A plain array over the same memory: a memmap object makes each access slower.
    is_whole = tokens.ndim == 1 and tokens.dtype == dtype and _SHA256.fullmatch(digest)
    return Tokens(np.asarray(tokens), digest) if is_whole else None


def _write(file: BinaryIO, dtype: np.dtype[Any], arrays: Iterator[NDArray[Any]]) -> str | None:
    """Write arrays, one behind the other, as one .npy file. Return their digest; None: they are empty."""
    # numpy leaves room in the header for a first axis that grows.
    _write_header(file, dtype, 0)
    start = file.tell()
    length = 0
    digest = hashlib.sha256()
    for array in arrays:
        values = np.ascontiguousarray(array, dtype)
        file.write(values.data)
        digest.update(values.astype(dtype.newbyteorder("<"), copy=False).data)
        length += len(array)
    file.seek(0)
    _write_header(file, dtype, length)
    if file.tell() != start:
        raise TrainingError(
            "this version of numpy leaves no room in the header of a .npy file.", "Update numpy."
        )
    return digest.hexdigest() if length else None


def _write_header(file: BinaryIO, dtype: np.dtype[Any], length: int) -> None:
    description = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(
        file, {"descr": description, "fortran_order": False, "shape": (length,)}
    )


def _encoded(text: Text, tokenizer: Tokenizer, progress: ProgressCallback) -> Iterator[NDArray[Any]]:
    waiting: list[Piece] = []
    characters = done = 0
    is_first = True
    for piece in chain(text.pieces(), [None]):
        if piece is not None:
            waiting.append(piece)
            characters += len(piece.text)
        if waiting and (piece is None or characters >= _CHARACTERS_AT_ONCE):
            yield from _joined(waiting, tokenizer, is_first)
            done += characters
            progress(done, 0, f"{done / 1e6:,.0f} million characters")
            waiting, characters, is_first = [], 0, False


def _joined(pieces: list[Piece], tokenizer: Tokenizer, is_first: bool) -> Iterator[NDArray[Any]]:
    """The tokens of pieces, an end of text in front of each document but the first of all."""
    separator = np.array([] if tokenizer.end_of_text is None else [tokenizer.end_of_text])
    for piece, tokens in zip(pieces, tokenizer.encode([piece.text for piece in pieces]), strict=True):
        if piece.starts_document and not is_first:
            if not len(separator):
                raise TrainingError(
                    f"the tokenizer {tokenizer.name!r} has no end-of-text token to stand between documents.",
                    "Take one with <|endoftext|>, </s> or <eos>, or a text that is one document.",
                )
            yield separator
        is_first = False
        yield tokens


class TokenWindows:
    """Examples of `length` + 1 tokens: number i is tokens [i * length, i * length + length].

    The last token of one is the first of the next: as a model's input it is seen once, and as its target once.

    Args:
        tokens: (tokens,) of any integer type, not copied. length: at least 1. name: of the text, for messages.

    Raises:
        TrainingError: not a single example.

    >>> windows = TokenWindows(np.arange(8), 3, "a text")
    >>> len(windows), windows[np.array([[1], [0]])].tolist()
    (2, [[[3, 4, 5, 6]], [[0, 1, 2, 3]]])
    """

    def __init__(self, tokens: NDArray[Any], length: int, name: str) -> None:
        if length < 1:
            raise TrainingError(
                f"a sequence length of {length} tokens.", "Take a sequence length of at least 1."
            )
        if len(tokens) <= length:
            raise TrainingError(
                f"sequences of {length} tokens need {length + 1} tokens, and {name} has {len(tokens)}.",
                f"Take a sequence_length of at most {len(tokens) - 1}, or a longer text."
                if len(tokens) > 1
                else "Give a longer text.",
            )
        self.tokens = tokens
        self.length = length
        self._rows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[::length]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """(*numbers.shape, length + 1) token numbers, a copy."""
        return self._rows[numbers].astype(np.int64)
