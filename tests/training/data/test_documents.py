"""Documents out of files of every kind, and what is said of files that are damaged."""

from __future__ import annotations

import gzip
import json
import re
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.data import text_files
from surge_sweeps.training.data.documents import Documents, find_documents
from surge_sweeps.training.data.pieces import PIECE_CHARACTERS, cut
from surge_sweeps.training.data.text import HELD_OUT_BYTES, Text, find_texts


def documents(found: Documents) -> list[str]:
    whole: list[str] = []
    for piece in found.pieces():
        if piece.starts_document:
            whole.append("")
        whole[-1] += piece.text
    return whole


def read(path: Path, field: str | None = None) -> list[str]:
    return documents(find_documents(path, field))


def write_lines(path: Path, *records: object) -> Path:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SURGE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SURGE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def test_text_is_kept_to_the_last_byte(folder: Path) -> None:
    content = "First line\r\n\n  zwölf 🦜 \t\x00 " * 9_000
    (folder / "a.txt").write_bytes(content.encode())
    (folder / "b.txt.gz").write_bytes(gzip.compress(content.encode()))
    assert read(folder / "a.txt") == read(folder / "b.txt.gz") == [content]
    assert len(list(find_documents(folder / "a.txt").pieces())) > 1


def test_a_folder_is_read_in_the_order_of_its_paths(folder: Path) -> None:
    (folder / "texts" / "b").mkdir(parents=True)
    for name, content in {"z.txt": "last", "b/1.txt": "second", "a.txt": "first", "empty.txt": ""}.items():
        (folder / "texts" / name).write_text(content)
    (folder / "texts" / ".hidden.txt").write_text("no")
    (folder / "texts" / "LICENSE").write_text("no")
    assert read(folder / "texts") == ["first", "second", "last"]
    assert read(folder / "texts" / "[a-z].txt") == ["first", "last"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz"])
def test_json_lines_are_a_document_each(folder: Path, name: str) -> None:
    path = write_lines(
        folder / name, {"text": "one", "url": "u"}, {"text": ""}, {"text": None}, {"text": "two\nlines"}
    )
    assert read(path) == ["one", "two\nlines"]


@pytest.mark.parametrize("block", [1, 7, 2**20])
def test_json_lists_are_read_a_part_at_a_time(
    folder: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", block)
    texts = ["one", 'a "quoted" [ä], }', "🦜 " * 50, "end"]
    for indent in (None, 2):
        content = json.dumps([{"text": text, "id": 3} for text in texts], indent=indent, ensure_ascii=False)
        (folder / "a.json").write_text(f"\n {content}\n")
        assert read(folder / "a.json") == texts
    (folder / "a.json").write_text(" [ ] ")
    assert read(folder / "a.json") == []


def test_redpajama_v2_layout(folder: Path) -> None:
    record = {"url": "http://a", "title": "t", "raw_content": "the page", "nlines": 1, "digest": "sha1:x"}
    assert read(write_lines(folder / "en_head.json.gz", record)) == ["the page"]


def test_eli5_layouts(folder: Path) -> None:
    question = {"q_id": "1", "title": "why?", "selftext": "", "category": "Biology"}
    category = question | {"answers": {"a_id": ["x", "y"], "text": ["Because.", "So."], "score": [3, 1]}}
    original = question | {"answers": [{"a_id": "x", "text": "Because."}, {"a_id": "y", "text": "So."}]}
    unanswered = question | {"answers": {"a_id": [], "text": [], "score": []}}
    (folder / "eli5-category-train.json").write_text(json.dumps([unanswered, category], indent=1))
    assert read(folder / "eli5-category-train.json") == ["Because. So."]
    assert read(write_lines(folder / "eli5.jsonl", original)) == ["Because. So."]
    pq.write_table(
        pa.Table.from_pylist([category, original | {"answers": category["answers"]}]), folder / "a.parquet"
    )
    assert read(folder / "a.parquet") == ["Because. So."] * 2
    assert read(folder / "a.parquet", "title") == ["why?"] * 2


def test_wikitext_rows_are_lines_of_one_text(folder: Path) -> None:
    lines = ["", " = Title = \n", "", " Some words . \n"] * 60
    pq.write_table(pa.table({"text": lines}), folder / "wiki.parquet")
    assert read(folder / "wiki.parquet") == ["".join(lines)]
    assert read(write_lines(folder / "two.jsonl", {"text": "a\nb\n"}, {"text": "c\n"})) == ["a\nb\n", "c\n"]


def test_ambiguous_text_lists_candidates_and_takes_the_one_named(folder: Path) -> None:
    path = write_lines(
        folder / "posts.jsonl", {"title": "t", "body": "b", "meta": {"tags": ["x", "y"]}, "id": 7}
    )
    with pytest.raises(TrainingError, match=r"Candidates: body, meta\.tags, title\. .*DATA#body"):
        read(path)
    assert documents(
        find_texts("posts.jsonl#body", str(write_lines(folder / "e.jsonl", {"text": "e"})))[0].documents
    ) == ["b"]
    assert read(path, "meta.tags") == ["x y"]
    with pytest.raises(
        TrainingError, match=r"no field 'bdy' .*body, meta\.tags, title\. Did you mean 'body'\?"
    ):
        read(path, "bdy")
    pq.write_table(pa.table({"title": ["t"], "body": ["b"], "n": [1]}), folder / "posts.parquet")
    with pytest.raises(TrainingError, match="Candidates: body, title"):
        read(folder / "posts.parquet")


def test_a_null_text_is_not_replaced_by_another_field(folder: Path) -> None:
    assert read(
        write_lines(folder / "a.jsonl", {"text": None, "title": "no"}, {"text": "yes", "title": "no"})
    ) == ["yes"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.txt",
            b"gut f\xfcr",
            r"a\.txt' is not UTF-8 text: byte 5 is 0xfc\. Convert it to UTF-8",
        ),
        ("a.txt", b"x" * 2**20 + b"\xff", "byte 1048576 is 0xff"),
        ("a.txt", b"half \xc3", "byte 5 is 0xc3"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": "b"\n', r"a\.jsonl, line 3 is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b\xff"}\n', r"a\.jsonl, line 2 has bytes that are not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', r"a\.jsonl, line 2 has no field 'text'"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 3}\n', r"a\.jsonl, line 2 has int where text is expected"),
        ("a.jsonl", b'"a"\n', r"a\.jsonl, line 1 is not a JSON object"),
        ("a.jsonl", b'{"id": 3}\n', r"no field of '.*a\.jsonl, line 1' holds text"),
        ("a.json", b'[{"text": "a"}, 3]', r"a\.json, item 2 is not a JSON object"),
        ("a.json", b'[{"text": "a"}', r"a\.json, item 1 is not JSON: the list has no end"),
        ("a.json", b'[{"text": "a"},', r"a\.json, item 2 is not JSON: Expecting value"),
        ("a.json", b'[{"text": "a"} {"text": "b"}]', r"a\.json, item 1 is followed by '\{'"),
        ("a.json", b'[{"text": "a"}, {"text": "b]', r"a\.json, item 2 is not JSON: Unterminated string"),
        (
            "a.jsonl",
            b'{"text": "ab\\ud83e c"}',
            r"a\.jsonl, line 1 has half of a surrogate pair, character 2",
        ),
        ("a.jsonl", b'{"text": ' + b"[" * 10**6, r"a\.jsonl, line 1 is not JSON"),
        ("a.parquet", b"PAR1 and no more", r"a\.parquet' cannot be read as Parquet: "),
    ],
)
def test_damage_is_told_with_its_place(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(TrainingError, match=message):
        read(folder / name)


def test_torn_gzip_files_are_told_with_their_place(folder: Path) -> None:
    lines = b"".join(b'{"text": "%d %d"}\n' % (number, number**7) for number in range(20_000))
    for name in ("a.jsonl.gz", "a.txt.gz"):
        (folder / name).write_bytes(gzip.compress(lines)[:-90_000])
        with pytest.raises(
            TrainingError, match=r"is torn: it cannot be unpacked from (line|byte) ([0-9]+)"
        ) as told:
            read(folder / name)
        place = re.search("(line|byte) ([0-9]+)", str(told.value))
        assert place is not None
        assert 0 < int(place[2]) < len(lines)
    (folder / "no.txt.gz").write_bytes(b"plain")
    with pytest.raises(TrainingError, match="is torn"):
        read(folder / "no.txt.gz")


def test_torn_parquet_file(folder: Path) -> None:
    pq.write_table(pa.table({"text": ["a" * 100] * 100}), folder / "whole.parquet")
    data = (folder / "whole.parquet").read_bytes()
    (folder / "torn.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(TrainingError, match=r"torn\.parquet' cannot be read as Parquet"):
        read(folder / "torn.parquet")


def test_parquet_without_text(folder: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2]}), folder / "a.parquet")
    with pytest.raises(
        TrainingError, match=r"no field of '.*a\.parquet' holds text\. Give records with a field 'text'"
    ):
        read(folder / "a.parquet")


def test_nothing_there(folder: Path) -> None:
    with pytest.raises(TrainingError, match=r"texts' is not there\..*tinyshakespeare, wikitext-2"):
        find_texts("texts")
    with pytest.raises(TrainingError, match="Did you mean 'tinyshakespeare'"):
        find_texts("tinyshakespear")
    with pytest.raises(TrainingError, match=r"surge-sweep data tinyshakespeare.*tinyshakespeare/input\.txt"):
        find_texts("tinyshakespeare")
    with pytest.raises(TrainingError, match="hf:OWNER/NAME@COMMIT/PATTERN"):
        find_texts("hf:owner/name@main/data/*.parquet")
    (folder / "empty").mkdir()
    with pytest.raises(TrainingError, match="empty' holds no text"):
        find_texts("empty")
    (folder / "empty" / "a.txt").write_text("a")
    write_lines(folder / "empty" / "a.jsonl", {"text": "a"})
    with pytest.raises(TrainingError, match=r"files of several kinds: JSON lines, text\. Name those"):
        find_texts("empty")


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_pieces_are_cut_where_words_begin_however_the_blocks_came(block: int) -> None:
    text = "To be,  or not\n\nto be: thatisthequestionofthewholeplay we say"
    blocks = [text[start : start + block] for start in range(0, len(text), block)]
    pieces = list(cut(blocks, size=12))
    assert "".join(pieces) == text
    assert pieces == list(cut([text], size=12))
    for before, after in pairwise(pieces):
        starts_word = after[0] in " \n" and not before[-1].isspace()
        assert starts_word or len(before) == 12


def test_pieces_are_never_long(folder: Path) -> None:
    (folder / "a.txt").write_text("x" * (3 * PIECE_CHARACTERS + 1) + " y")
    sizes = [len(piece.text) for piece in find_documents(folder / "a.txt").pieces()]
    assert sizes == [PIECE_CHARACTERS] * 3 + [3]


def joined(text: Text) -> str:
    return "".join(piece.text for piece in text.pieces())


def test_the_last_tenth_is_held_out(folder: Path) -> None:
    write_lines(folder / "a.jsonl", *({"text": f"{number:04}ü" * 5} for number in range(200)))
    training, held_out = find_texts("a.jsonl")
    whole = joined(Text(training.documents))
    assert joined(training) + joined(held_out) == whole
    size = len(joined(held_out).encode())
    # No character is cut in two.
    assert len(whole.encode()) // 10 <= size <= len(whole.encode()) // 10 + 1
    assert training.digest != held_out.digest


def test_no_more_is_held_out_than_the_bound(folder: Path) -> None:
    (folder / "a.txt").write_text("0123456789 " * 2**20)
    training, held_out = find_texts("a.txt")
    assert len(joined(held_out)) == HELD_OUT_BYTES
    assert len(joined(training)) == 11 * 2**20 - HELD_OUT_BYTES


def test_a_held_out_text_of_its_own_leaves_the_training_text_whole(folder: Path) -> None:
    (folder / "a.txt").write_text("training " * 100)
    (folder / "b.txt").write_text("held out " * 100)
    training, held_out = find_texts("a.txt", "b.txt")
    assert (joined(training), joined(held_out)) == ("training " * 100, "held out " * 100)
    (folder / "copy.txt").write_text("training " * 100)
    with pytest.raises(
        TrainingError, match=r"copy\.txt' of .* has the content of .*a\.txt', which is trained on\. Leave"
    ):
        find_texts("a.txt", "copy.txt")


def test_known_data_sets_bring_their_held_out_text(folder: Path) -> None:
    (folder / "wikitext-2").mkdir()
    for part in ("train", "validation"):
        rows = pa.table({"text": [f" the {part} part \n"] * 9})
        pq.write_table(rows, folder / "wikitext-2" / f"{part}-00000-of-00001.parquet")
    training, held_out = find_texts("wikitext-2")
    assert joined(training) == " the train part \n" * 9
    assert joined(held_out) == " the validation part \n" * 9
    (folder / "a.txt").write_text("something else")
    assert joined(find_texts("a.txt", "wikitext-2")[1]) == joined(held_out)


def test_files_of_the_hub_are_read_as_those_on_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def hub_files(name: str) -> tuple[Path, ...]:
        asked.append(name)
        return (
            write_lines(folder / "1.jsonl", {"body": "a", "title": "t"}),
            write_lines(folder / "2.jsonl", {"body": "b"}),
        )

    monkeypatch.setattr("surge_sweeps.training.data.text.hub_files", hub_files)
    name = f"hf:owner/name@{'0' * 40}/data/*.jsonl"
    assert documents(find_texts(f"{name}#body")[0].documents) == ["a", "b"]
    assert asked == [name]


@pytest.mark.parametrize("eval_data", ["a.jsonl#text", "./a.jsonl", "b.jsonl.gz", "link.jsonl", "folder"])
def test_text_that_is_trained_on_is_not_held_out(folder: Path, eval_data: str) -> None:
    rows = [{"text": f"page {number}"} for number in range(9)]
    write_lines(folder / "a.jsonl", *rows)
    write_lines(folder / "b.jsonl.gz", *rows)
    (folder / "link.jsonl").symlink_to("a.jsonl")
    (folder / "folder").mkdir()
    write_lines(folder / "folder" / "0.jsonl", {"text": "other"})
    write_lines(folder / "folder" / "1.jsonl", *rows)
    for _ in range(2):
        with pytest.raises(TrainingError, match="trained on"):
            find_texts("a.jsonl", eval_data)
    # Two files without content are no text in common.
    (folder / "x.txt").write_text("x")
    find_texts("a.jsonl", "x.txt")


def test_a_folder_of_parts_is_divided(folder: Path) -> None:
    (folder / "wiki").mkdir()
    for part in ("train", "valid", "test"):
        (folder / "wiki" / f"wiki.{part}.txt").write_text(f"the {part} text")
    for found in (find_texts("wiki"), find_texts("wiki/*.txt"), find_texts("wiki", "wiki/wiki.valid.txt")):
        assert [joined(text) for text in found] == ["the train text", "the valid text"]
    (folder / "wiki" / "notes.txt").write_text("notes")
    with pytest.raises(
        TrainingError, match=r"not clear which files .*1 of no part \('notes\.txt'\).* pattern"
    ):
        find_texts("wiki")
    (folder / "wiki" / "notes.txt").rename(folder / "wiki" / "train-test.txt")
    with pytest.raises(TrainingError, match=r"'train-test\.txt' .* several parts: test and train"):
        find_texts("wiki")
