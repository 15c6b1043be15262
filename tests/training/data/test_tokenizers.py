"""Tokenizers: what they lose (nothing), what they have seen (the training text alone), and bad names and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers

from surge_sweeps.errors import TrainingError, UnknownNameError
from surge_sweeps.training.data.pieces import cut
from surge_sweeps.training.data.text import Text, find_texts
from surge_sweeps.training.data.tokenizers import ByteTokenizer, LibraryTokenizer, load_tokenizer, train_bpe

WORDS = "the surge of the optimal learning rate at small batch sizes and the noise of the gradient 1984 "
ODD = "zwölf 🦜\x00\r\n\n\n  \t\u3000<pad> 'tis  I'll  <|endoftext|> end\x1c x\xa0y"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SURGE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SURGE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def text(folder: Path) -> Text:
    (folder / "a.txt").write_text(WORDS * 50 + "qzqzqzqz" * 30)
    return find_texts("a.txt")[0]


@pytest.mark.parametrize("name", ["bytes", "bpe-300"])
@pytest.mark.parametrize("written", [WORDS, ODD, "", "\u0000"])
def test_decoding_gives_the_text_back(text: Text, name: str, written: str) -> None:
    tokenizer = load_tokenizer(name, text)
    (tokens,) = tokenizer.encode([written])
    assert tokenizer.decode(tokens.tolist()) == written
    assert not len(tokens) or tokens.max() < tokenizer.vocabulary


def test_a_bpe_has_the_size_asked_for_and_shortens_its_text(text: Text) -> None:
    tokenizer = load_tokenizer("bpe-300", text)
    assert tokenizer.vocabulary == 300
    assert tokenizer.end_of_text == 0
    assert len(tokenizer.encode([WORDS])[0]) < len(WORDS) / 2


def test_a_bpe_has_not_seen_the_held_out_text(text: Text) -> None:
    # The pair stands in the last tenth alone, where it is the most frequent of all.
    whole = Text(text.documents)
    assert '"qz"' in train_bpe(300, whole)
    assert '"qz"' not in train_bpe(300, text)


def test_a_bpe_is_the_same_each_time(text: Text) -> None:
    assert train_bpe(300, text) == train_bpe(300, text)


def test_a_bpe_is_made_once(text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_tokenizer("bpe-300", text)
    monkeypatch.setattr("surge_sweeps.training.data.tokenizers.train_bpe", None)
    assert load_tokenizer("bpe-300", text).digest == first.digest


def test_a_damaged_bpe_is_made_again(text: Text, folder: Path) -> None:
    first = load_tokenizer("bpe-300", text)
    (kept,) = (folder / "cache").rglob("tokenizer.json")
    kept.write_text(kept.read_text()[:1000])
    assert load_tokenizer("bpe-300", text).digest == first.digest
    kept.unlink()
    assert load_tokenizer("bpe-300", text).digest == first.digest


def test_a_text_in_pieces_gives_the_tokens_of_the_whole(folder: Path) -> None:
    whole = (WORDS + "\n\n  Two  spaces,\n\tand a tab.  \n") * 1500
    (folder / "a.txt").write_text(whole)
    (folder / "b.txt").write_text("b")
    text, _ = find_texts("a.txt", "b.txt")
    pieces = [piece.text for piece in text.pieces()]
    assert len(pieces) > 2
    tokenizer = load_tokenizer("bpe-330", text)
    in_pieces = [token for tokens in tokenizer.encode(pieces) for token in tokens]
    assert in_pieces == tokenizer.encode([whole])[0].tolist()


@pytest.mark.parametrize("size", range(16, 40))
def test_runs_of_spaces_and_line_breaks_are_not_cut(folder: Path, size: int) -> None:
    whole = "ab    cd\n\n\n\n  ef   'll    \n\n    gh,   \t 12      ij" * 9
    (folder / "a.txt").write_text(whole)
    tokenizer = LibraryTokenizer("bpe", train_bpe(290, Text(find_texts("a.txt")[0].documents)))
    in_pieces = [token for tokens in tokenizer.encode(list(cut([whole], size))) for token in tokens]
    assert in_pieces == tokenizer.encode([whole])[0].tolist()


@pytest.mark.parametrize("name", ["bpe-0", "bpe-257", "bpe-99999999"])
def test_impossible_vocabularies(text: Text, name: str) -> None:
    with pytest.raises(
        TrainingError, match=f"cannot have {name[4:]} tokens. Take bpe-258 to bpe-1048576, or bytes"
    ):
        load_tokenizer(name, text)


def test_a_text_too_small_for_its_vocabulary(text: Text) -> None:
    with pytest.raises(
        TrainingError, match=r"too small for a BPE of 5000 tokens: it gives (\d+)\. Take bpe-\1 or less"
    ):
        load_tokenizer("bpe-5000", text)


@pytest.mark.parametrize("name", ["gpt2", "bpe", "bpe-x", "bpe-4k", "Bytes"])
def test_unknown_tokenizers(text: Text, name: str) -> None:
    with pytest.raises(
        UnknownNameError, match=r"Valid: bpe-N \(as bpe-4096\), bytes, the path of a tokenizer.json"
    ):
        load_tokenizer(name, text)


def test_a_tokenizer_of_the_users(text: Text, folder: Path) -> None:
    words = {"[UNK]": 0, "the": 1, "surge": 2, "</s>": 9}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.enable_padding(length=16)
    made.enable_truncation(4)
    made.save(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer("tokenizer.json", text)
    # Neither padded nor shortened; the vocabulary reaches to the highest number.
    assert tokenizer.encode(["the surge of the surge the"])[0].tolist() == [1, 2, 0, 1, 2, 1]
    assert (tokenizer.vocabulary, tokenizer.end_of_text) == (10, 9)


@pytest.mark.parametrize("content", [b"no json", b"\xff\xfe", json.dumps({"model": {}}).encode()])
def test_files_that_are_no_tokenizers(text: Text, folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(TrainingError, match=r"tokenizer\.json"):
        load_tokenizer("tokenizer.json", text)


def test_bytes_are_bytes() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode([ODD])[0].tolist() == list(ODD.encode())
