"""The token store: the same tokens as plain Python gives, made once, by many processes, whatever is damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import surge_sweeps
from surge_sweeps.errors import TrainingError
from surge_sweeps.training.data import digests, tokens
from surge_sweeps.training.data.text import Text, find_texts
from surge_sweeps.training.data.tokenizers import ByteTokenizer, load_tokenizer
from surge_sweeps.training.data.tokens import TokenWindows, token_dtype, tokenize

STORIES = [f"Story {number}: " + "word " * (number % 7) for number in range(300)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SURGE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SURGE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def text(folder: Path) -> Text:
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": story}) + "\n" for story in STORIES))
    (folder / "b.txt").write_text("held out")
    return find_texts("a.jsonl", "b.txt")[0]


@dataclass
class Numbered:
    """A tokenizer of single characters with a vocabulary of any size."""

    vocabulary: int
    end_of_text: int | None
    name: str = "numbered"

    @property
    def digest(self) -> str:
        return f"numbered {self.vocabulary}"

    def encode(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        return [np.array([self.vocabulary - ord(character) for character in text]) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(chr(self.vocabulary - token) for token in tokens)


def test_tokens_are_those_of_the_documents_joined_by_ends_of_text(text: Text) -> None:
    expected: list[int] = []
    for story in STORIES:
        expected += [*([256] if expected else []), *story.encode()]
    stored = tokenize(text, ByteTokenizer()).numbers
    assert stored.tolist() == expected
    assert stored.dtype == np.uint16


@pytest.mark.parametrize("at_once", [1, 40, 10**6])
def test_tokens_do_not_depend_on_how_much_is_tokenised_at_once(
    text: Text, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_CHARACTERS_AT_ONCE", at_once)
    bpe = load_tokenizer("bpe-300", text)
    expected = b"<|endoftext|>".join(story.encode() for story in STORIES).decode()
    stored = tokenize(text, bpe).numbers
    assert bpe.decode(stored.tolist()) == expected
    assert (stored == bpe.end_of_text).sum() == len(STORIES) - 1


def test_large_vocabularies_take_32_bits(text: Text) -> None:
    stored = tokenize(text, Numbered(2**32, 0)).numbers
    assert stored.dtype == np.uint32
    assert stored[0] == 2**32 - ord("S")
    assert (token_dtype(2**16), token_dtype(2**16 + 1)) == (np.uint16, np.uint32)


def test_vocabularies_beyond_32_bits(text: Text) -> None:
    with pytest.raises(
        TrainingError, match=r"a vocabulary of 4294967297 tokens cannot .* Take a tokenizer of"
    ):
        tokenize(text, Numbered(2**32 + 1, 0))


def test_documents_need_an_end_of_text(text: Text, folder: Path) -> None:
    with pytest.raises(TrainingError, match=r"'numbered' has no end-of-text token .* Take one with"):
        tokenize(text, Numbered(300, None))
    assert len(tokenize(find_texts("b.txt", "a.jsonl")[0], Numbered(300, None)).numbers) == len("held out")
    assert not list((folder / "cache").rglob("*.unfinished"))


def test_tokens_are_made_once_and_again_when_text_or_tokenizer_change(
    text: Text, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    write = tokens._write
    monkeypatch.setattr(tokens, "_write", lambda *arguments: made.append(1) or write(*arguments))

    def stored(path: str = "a.jsonl") -> list[int]:
        text, _ = find_texts(path, "b.txt")
        return [int(token) for token in tokenize(text, ByteTokenizer()).numbers]

    first = stored()
    assert stored() == first
    (folder / "moved").mkdir()
    (folder / "a.jsonl").rename(folder / "moved" / "c.jsonl")
    assert stored("moved/c.jsonl") == first
    assert len(made) == 1
    (folder / "a.jsonl").write_text((folder / "moved" / "c.jsonl").read_text().replace("Story 0", "Glory 0"))
    assert stored()[:7] == list(b"Glory 0")
    tokenize(text, load_tokenizer("bpe-300", text))
    assert len(made) == 3


@pytest.mark.parametrize("damage", ["shorter", "empty", "gone", "other", "header"])
def test_damaged_stores_are_made_again(text: Text, folder: Path, damage: str) -> None:
    before = tokenize(text, ByteTokenizer()).numbers
    first = before.tolist()
    (path,) = (folder / "cache").rglob("tokens.npy")
    data = path.read_bytes()
    # Not written over, as a file that is mapped must not be.
    path.unlink()
    if damage == "other":
        np.save(path, np.zeros((3, 3)))
    elif damage != "gone":
        path.write_bytes({"shorter": data[:-100], "empty": b"", "header": data[:20]}[damage])
    assert tokenize(text, ByteTokenizer()).numbers.tolist() == first
    # Who had the old one open goes on with it.
    assert before.tolist() == first


def test_two_processes_at_once(text: Text, folder: Path) -> None:
    (folder / "long.txt").write_text("some words, and more of them. " * 40_000)
    program = (
        "import sys; from surge_sweeps.training.data.text import find_texts;"
        "from surge_sweeps.training.data.tokenizers import ByteTokenizer;"
        "from surge_sweeps.training.data.tokens import tokenize;"
        "sys.stdin.readline(); print(int(tokenize(find_texts('long.txt')[0], ByteTokenizer()).numbers.sum()))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(surge_sweeps.__file__).parents[1])}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    sums = [process.communicate("go\n", timeout=60)[0] for process in running]
    expected = tokenize(find_texts("long.txt")[0], ByteTokenizer()).numbers
    assert sums == [f"{expected.sum()}\n"] * 2
    assert len(list((folder / "cache").rglob("tokens.npy"))) == 1


def test_a_process_killed_at_work_leaves_nothing_in_the_way(
    text: Text, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tokens, "_encoded", lambda *_: iter([np.zeros(9), None]))
        with pytest.raises(TypeError):
            tokenize(text, ByteTokenizer())
    assert tokenize(text, ByteTokenizer()).numbers[:5].tolist() == list(b"Story")


def test_what_is_made_is_told_on_standard_error_when_it_is_made(
    text: Text, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        load_tokenizer("bpe-270", text)
        tokenize(text, ByteTokenizer())
    size = (folder / "a.jsonl").stat().st_size
    kept = f"once; it is kept in '{folder / 'cache'}' (SURGE_CACHE_DIR)."
    assert capsys.readouterr().err.splitlines() == [
        f"making the tokenizer bpe-270 from '{folder / 'a.jsonl'}', {kept}",
        f"tokenising the text of '{folder / 'a.jsonl'}' (1 file, {size:,} bytes) as bytes, {kept}",
    ]


def test_a_cache_that_cannot_be_written(text: Text, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("SURGE_CACHE_DIR", str(folder / "file"))
    with pytest.raises(TrainingError, match="SURGE_CACHE_DIR"):
        tokenize(text, ByteTokenizer())


def test_empty_text(folder: Path) -> None:
    (folder / "a.txt").write_text("")
    (folder / "b.txt").write_text("b")
    with pytest.raises(TrainingError, match=r"a\.txt' holds no text\. Give a longer text"):
        tokenize(find_texts("a.txt", "b.txt")[0], ByteTokenizer())
    with pytest.raises(TrainingError, match=r"b\.txt' holds no text to hold out"):
        tokenize(find_texts("b.txt")[1], ByteTokenizer())


def test_windows_are_slices() -> None:
    stored = np.arange(100, dtype=np.uint16)
    for length in (1, 7, 33, 99):
        windows = TokenWindows(stored, length, "a text")
        expected = [
            stored[start : start + length + 1].tolist()
            for start in range(0, 100, length)
            if start + length + 1 <= 100
        ]
        assert windows[np.arange(len(windows))].tolist() == expected
    taken = windows[np.zeros((2, 0, 3), dtype=np.int64)]
    assert (taken.shape, taken.dtype) == ((2, 0, 3, 100), np.int64)


def test_digests_of_large_files_are_kept_while_they_stay_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "LARGE_BYTES", 4)
    path = folder / "a.txt"
    path.write_text("large")
    first = digests.file_digest(path)
    with monkeypatch.context() as patch:
        patch.setattr(digests, "_hash", None)
        assert digests.file_digest(path) == first
    path.write_text("larger")
    second = digests.file_digest(path)
    assert second != first
    for known in (folder / "cache" / "digests").iterdir():
        known.write_text("torn")
    assert digests.file_digest(path) == second
    status = path.stat()
    path.write_text("LARGER")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digests.file_digest(path) != second
