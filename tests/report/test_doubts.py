"""What puts the whole result in doubt stands beside the answer, wherever the answer is read."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from surge_sweeps.cli.summary import print_summary
from surge_sweeps.fitting.result import ProblemRecord
from surge_sweeps.report.html import html_page
from surge_sweeps.report.markdown import first_screens, markdown_page
from surge_sweeps.report.page import report_info
from tests.report.conftest import Case

DOUBT = "nothing confirms that the step of 'val_loss' counts optimizer steps"


@pytest.fixture
def doubted(demo: Case) -> Case:
    of_runs = [ProblemRecord(run=f"run{place}", what="one run's own") for place in range(30)]
    others = [ProblemRecord(run=None, what=f"another of all, {place}") for place in range(3)]
    problems = [*of_runs, ProblemRecord(run=None, what=DOUBT), *others]
    return demo._replace(fit=demo.fit.model_copy(update={"problems": problems}))


def test_the_terminal_says_them_in_full(doubted: Case) -> None:
    text = io.StringIO()
    print_summary(doubted.fit, Console(file=text, width=400))
    assert "34 problems found" in text.getvalue()
    assert DOUBT in text.getvalue()
    assert "another of all" not in text.getvalue()
    assert "one run's own" not in text.getvalue()


def test_the_pages_say_them_before_the_answer(doubted: Case) -> None:
    info = report_info(*doubted)
    for page, answer in (
        (markdown_page(info), "**Recommendation.**"),
        (first_screens(info), "**Recommendation.**"),
        (html_page(info), "<strong>Recommendation</strong>"),
    ):
        shown = page.replace("&#39;", "'").replace("<wbr>", "").replace("\\_", "_")
        assert shown.index(DOUBT) < shown.index(answer)


def test_other_problems_are_counted_alone(demo: Case) -> None:
    assert report_info(*demo).doubts == ()
