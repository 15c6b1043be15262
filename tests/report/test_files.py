"""The files on disk: whole, self-contained, byte-identical on a second write, safe against hostile names."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from surge_sweeps.errors import SurgeError
from surge_sweeps.fitting.result import LawFit, SurgeFit
from surge_sweeps.report.tables import OPTIMAL_LR_COLUMNS, schedule_yaml
from surge_sweeps.report.write import safe_name, write_report

from .conftest import EVIL, Case

NAMES = ["report.html", "report.md", "fit.json", "schedule.yaml", "optimal_lr.csv"]


class Loads(HTMLParser):
    """Every tag, and every address a page would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = ("src", "href", "srcset", "data", "action")
        self.addresses += [value or "" for name, value in attrs if name in named]


def test_all_five_files_are_written(demo: Case, tmp_path: Path) -> None:
    paths = write_report(*demo, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == NAMES
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(NAMES)


def test_a_second_write_changes_nothing(demo: Case, tmp_path: Path) -> None:
    paths = write_report(*demo, tmp_path)
    before = [(path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in paths]
    paths = write_report(*demo, tmp_path)
    assert [(path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in paths] == before


def test_row_order_of_the_cells_does_not_matter(demo: Case, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_report(*demo, tmp_path / "a")]
    shuffled = demo.cells.sample(frac=1, random_state=1)
    assert [path.read_bytes() for path in write_report(demo.fit, shuffled, tmp_path / "b")] == first


def test_nothing_is_written_when_one_file_cannot_be_made(demo: Case, tmp_path: Path) -> None:
    target = demo.fit.groups[0].targets[0]
    unknown = target.model_copy(update={"laws": [LawFit(name="cubic", parameters={}, aicc=0.0, weight=1.0)]})
    group = demo.fit.groups[0].model_copy(
        update={"targets": [unknown.model_copy(update={"verdict": "inconclusive"})]}
    )
    with pytest.raises(SurgeError, match="cubic"):
        write_report(demo.fit.model_copy(update={"groups": [group]}), demo.cells, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file_is_an_error_with_a_next_step(empty: Case, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(SurgeError, match=r"(?i)choose a(nother)? folder"):
        write_report(*empty, tmp_path / "taken")


def test_fit_json_reads_back_and_holds_no_nan(demo: Case, tmp_path: Path) -> None:
    write_report(*demo, tmp_path)
    text = (tmp_path / "fit.json").read_text(encoding="utf-8")

    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert SurgeFit.from_dict(json.loads(text, parse_constant=refuse)) == demo.fit


def test_optimal_lr_csv_holds_every_optimum_in_full_precision(demo: Case, tmp_path: Path) -> None:
    write_report(*demo, tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "optimal_lr.csv").read_text(encoding="utf-8"))))
    assert tuple(rows[0]) == OPTIMAL_LR_COLUMNS
    optima = [one for group in demo.fit.groups for target in group.targets for one in target.optimal_lr]
    assert [float(row["lr"]) for row in rows] == [one.lr for one in optima]
    assert rows[0]["horizon"] == ""
    assert rows[-1]["group"] == "optimizer adamw"
    assert next(row for row in rows if row["protocol"] == "gain")["horizon"] == "10"
    assert next(row for row in rows if row["status"] == "edge_high")["high"] == ""


def test_schedule_yaml_holds_the_phases_as_numbers(demo: Case, tmp_path: Path) -> None:
    write_report(*demo, tmp_path)
    text = (tmp_path / "schedule.yaml").read_text(encoding="utf-8")
    assert text.startswith("# Recommended schedules")
    first, second = yaml.safe_load(text)["groups"]
    assert first["group"] == {"optimizer": "sign"}
    assert first["schedule"]["phases"][1]["lr"] == pytest.approx(0.0241)
    assert second["schedule"] is None


def test_the_page_loads_nothing_from_outside(demo: Case, tmp_path: Path) -> None:
    write_report(*demo, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    parsed = Loads(page)
    assert [address for address in parsed.addresses if not address.startswith(("#", "data:"))] == []
    assert not {"link", "iframe", "img", "object", "embed"} & set(parsed.tags) - {"link"}
    assert page.count('id="plotly-js"') == 1
    assert "default-src 'none'" in page
    assert not re.search(r"@import|url\(\s*['\"]?http", page)


def test_the_page_stays_small(demo: Case, tmp_path: Path) -> None:
    size = write_report(*demo, tmp_path)[0].stat().st_size
    assert size < 3e6


def test_a_page_without_figures_holds_no_plotly(empty: Case, tmp_path: Path) -> None:
    page = write_report(*empty, tmp_path)[0]
    assert page.stat().st_size < 1e5
    assert "No run ended with a result" in page.read_text(encoding="utf-8")


def test_hostile_names_stay_text_in_every_file(hostile: Case, tmp_path: Path) -> None:
    write_report(*hostile, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)&lt;/<wbr>script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    tags = Loads(page).tags
    assert tags.count("script") == 3
    assert "img" not in tags
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert not any(line.startswith(("# heading", "# not")) for line in markdown.splitlines())
    content = yaml.safe_load((tmp_path / "schedule.yaml").read_text(encoding="utf-8"))
    assert content["project"] == hostile.fit.project


def test_markdown_tables_have_even_columns(demo: Case, tmp_path: Path) -> None:
    write_report(*demo, tmp_path)
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    tables = "\n".join(line if line.startswith("|") else "" for line in lines).split("\n\n")
    for table in filter(None, (table.strip("\n") for table in tables)):
        assert len({len(line) for line in table.splitlines()}) == 1


def test_markdown_says_what_the_page_says(demo: Case, tmp_path: Path) -> None:
    write_report(*demo, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for words in (
        "Train with batch size 16 and LR 0.03",
        "The data cannot tell",
        "What was assumed",
        "32 times",
        "above 210",
    ):
        assert words in text


@pytest.mark.parametrize(
    "name",
    ["../../etc", "", "..", ".", "/", "a/b", "con", "NUL.txt", "a\x00b", EVIL, " ", "-rf", ".git", "x" * 300],
)
def test_a_hostile_project_name_becomes_one_plain_folder(name: str) -> None:
    safe = safe_name(name)
    assert safe not in ("", ".", "..")
    assert re.fullmatch(r"\w[\w.-]*", safe)
    assert len(safe) <= 90
    assert safe != name


@given(st.text(), st.text())
def test_two_projects_never_share_a_folder(first: str, second: str) -> None:
    assert (safe_name(first) == safe_name(second)) == (first == second)


@given(st.text())
def test_a_folder_name_never_leaves_its_parent(name: str) -> None:
    assert Path("reports", safe_name(name)).resolve().parent == Path("reports").resolve()


def test_yaml_comments_hold_no_untrusted_text(hostile: Case) -> None:
    comments = [line for line in schedule_yaml(hostile.fit).splitlines() if line.startswith("#")]
    assert not any("script" in line or "heading" in line for line in comments)
