"""Text to token numbers: bytes, a byte-level BPE made from the training text itself, or a tokenizer.json of the user's.

None of them needs a network. `bytes` and `bpe-N` lose nothing: decoding gives the text back, whatever it holds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.errors import TrainingError, UnknownNameError
from surge_sweeps.extras import require
from surge_sweeps.files import write_text
from surge_sweeps.training.data.kept_values import kept_value
from surge_sweeps.training.data.making import making
from surge_sweeps.training.data.places import DATA_VARIABLE, data_folder, find_path
from surge_sweeps.training.data.text import Text

#: What separates documents, by the name it has in common vocabularies; the first that is there is taken.
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
#: A BPE is made from at most so many bytes from the beginning of the training text.
BPE_TEXT_BYTES = 2**28
#: The 256 bytes, the end of text, and at least one merge.
_SMALLEST_BPE = 258
_LARGEST_BPE = 2**20
_BPE_NAME = re.compile(r"bpe-(\d{1,12})")
_NEARLY_BPE_NAME = re.compile(r"bpe[-_ ]?(\d{3,7})", re.IGNORECASE)


class Tokenizer(Protocol):
    """Text to token numbers and back.

    Attributes:
        name: what the user calls it.
        vocabulary: token numbers are below it.
        end_of_text: the token between documents; None: there is none.
        digest: hexadecimal; changes whenever the tokens of a text may change.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def vocabulary(self) -> int: ...  # noqa: D102
    @property
    def end_of_text(self) -> int | None: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102

    def encode(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """The token numbers of each text: arrays of unsigned integers, one dimension."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token numbers."""
        ...


def load_tokenizer(name: str, training_text: Text) -> Tokenizer:
    """The tokenizer of that name.

    Args:
        name: `bytes`; `bpe-N` for a byte-level BPE of N tokens, made once from the training text and kept; or the path
            of a tokenizer.json, a relative one in the data folder.
        training_text: held-out text has no part in a BPE.

    Raises:
        UnknownNameError: neither a name nor a file.
        TrainingError: a vocabulary size that cannot be, a text too small for it, a file that is no tokenizer.
        MissingExtraError: `tokenizers` is not installed.
    """
    if name == "bytes":
        return ByteTokenizer()
    check_tokenizer_name(name)
    if match := _BPE_NAME.fullmatch(name):
        return _bpe(int(match[1]), training_text)
    path = find_path(name)
    if not path.is_file():
        where = (
            f"It is looked for in {str(data_folder())!r} ({DATA_VARIABLE}) and in this folder."
            if not Path(name).expanduser().is_absolute()
            else "Check the path of the tokenizer."
        )
        raise TrainingError(f"there is no file {name!r}, which is to be the tokenizer.", where)
    return _from_file(name, path)


def check_tokenizer_name(name: str) -> None:
    """See that a name may be that of a tokenizer. A tokenizer.json is not looked for: it may lie on another machine.

    Raises:
        UnknownNameError: it is neither of the known form nor that of a file.
        TrainingError: a vocabulary size that cannot be.

    >>> check_tokenizer_name("bpe-4096")
    >>> check_tokenizer_name("bpe4096")
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.TrainingError: unknown tokenizer 'bpe4096'. Did you mean 'bpe-4096'?
    """
    if match := _BPE_NAME.fullmatch(name):
        size = int(match[1])
        if not _SMALLEST_BPE <= size <= _LARGEST_BPE:
            raise TrainingError(
                f"a byte-level BPE cannot have {size} tokens.",
                f"Take bpe-{_SMALLEST_BPE} to bpe-{_LARGEST_BPE}, or bytes.",
            )
        return
    if name == "bytes" or name.endswith(".json") or find_path(name).is_file():
        return
    if match := _NEARLY_BPE_NAME.fullmatch(name):
        raise TrainingError(f"unknown tokenizer {name!r}.", f"Did you mean 'bpe-{match[1]}'?")
    raise UnknownNameError(
        "tokenizer", name, ["bytes", "bpe-N (as bpe-4096)", "the path of a tokenizer.json"]
    )


class ByteTokenizer:
    """Token numbers 0..255 are bytes of UTF-8, 256 is the end of text.

    >>> [list(map(int, tokens)) for tokens in ByteTokenizer().encode(["aé"])], ByteTokenizer().decode([97, 256])
    ([[97, 195, 169]], 'a<|endoftext|>')
    """

    name = "bytes"
    vocabulary = 257
    end_of_text = 256
    digest = "bytes"

    def encode(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """The bytes of each text."""
        return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text; bytes that are no UTF-8, such as half a character, become replacement characters."""
        ends = END_OF_TEXT[0].encode()
        data = b"".join(ends if token == self.end_of_text else bytes([token]) for token in tokens)
        return data.decode("utf-8", errors="replace")


class LibraryTokenizer:
    """A tokenizer of the package `tokenizers`.

    Args:
        name: what the user calls it. content: of its tokenizer.json.

    Special tokens are never added to a text, and texts are neither padded nor shortened. A special token that a text
    spells out, such as `<|endoftext|>`, becomes that token.

    Raises:
        TrainingError: the content is no tokenizer.
        MissingExtraError: `tokenizers` is not installed.
    """

    def __init__(self, name: str, content: str) -> None:
        library = require("tokenizers", "hub")
        try:
            self._tokenizer = library.Tokenizer.from_str(content)
        except Exception as error:  # The library raises nothing more exact.
            raise TrainingError(
                f"{name!r} is no tokenizer of the package 'tokenizers': {str(error).splitlines()[0]}.",
                "Give a tokenizer.json, as Tokenizer.save and save_pretrained of a fast tokenizer write it.",
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        numbers: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        if not numbers:
            raise TrainingError(f"the tokenizer {name!r} has no tokens.", "Give one that was trained.")
        self.name = name
        self.vocabulary = max(numbers.values()) + 1
        self.end_of_text = next((numbers[token] for token in END_OF_TEXT if token in numbers), None)
        self.digest = hashlib.sha256(content.encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """The tokens of each text, on all cores."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.asarray(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text, special tokens spelled out."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text


def _from_file(name: str, path: Path) -> Tokenizer:
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise TrainingError(
            f"the tokenizer {name!r} cannot be read: {reason}.", "Give a tokenizer.json that you may read."
        ) from error
    return LibraryTokenizer(name, content)


def _bpe(size: int, text: Text) -> Tokenizer:
    name = f"bpe-{size}"
    library = require("tokenizers", "hub")
    key = {"text": text.digest, "size": size, "library": library.__version__, "bytes": BPE_TEXT_BYTES}

    def make(folder: Path) -> None:
        with making("making", f"the tokenizer {name} from {text.documents.name!r}"):
            write_text(folder / "tokenizer.json", train_bpe(size, text))

    def read(folder: Path) -> Tokenizer | None:
        try:
            return LibraryTokenizer(name, (folder / "tokenizer.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, UnicodeDecodeError, TrainingError):
            return None

    tokenizer = kept_value("tokenizers", key, make, read)
    if tokenizer.vocabulary < size:
        raise TrainingError(
            f"the training text is too small for a BPE of {size} tokens: it gives {tokenizer.vocabulary}.",
            f"Take bpe-{tokenizer.vocabulary} or less, or bytes."
            if tokenizer.vocabulary >= _SMALLEST_BPE
            else "Take bytes.",
        )
    return tokenizer


def train_bpe(size: int, text: Text) -> str:
    """A byte-level BPE (Sennrich et al. 2016; on bytes: Radford et al. 2019) made from a text, as tokenizer.json.

    The same text and version of the library give the same merges. Token 0 is the end of text.

    Args:
        size: tokens in all; fewer where the text has nothing left to merge.

    Raises:
        MissingExtraError: `tokenizers` is not installed.
    """
    library = require("tokenizers", "hub")
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT[0]],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_first(text, BPE_TEXT_BYTES), trainer=trainer)
    content: str = tokenizer.to_str()
    return content


def _first(text: Text, size: int) -> Iterator[str]:
    done = 0
    for piece in text.pieces():
        if done >= size:
            return
        yield piece.text
        done += len(piece.text.encode())
