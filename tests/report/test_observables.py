"""Reports of every observable that is not steps to a loss: final losses, gains, steps to a goal, tuned learning rates.

Each is simulated, fitted and written as a table would be; the pages say what their data can tell and nothing else.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from surge_sweeps.cli.summary import print_summary
from surge_sweeps.curves import LossCurves
from surge_sweeps.fitting import fit, measured_cells
from surge_sweeps.fitting.result import GroupFit, Interval, Slope, TheoryTest, UShape
from surge_sweeps.report.page import report_info
from surge_sweeps.report.write import write_report
from surge_sweeps.schedule import attach_schedules
from surge_sweeps.simulate import Grid, Truth, simulate_table, simulate_training

from .conftest import EVIL, Case
from .test_browser import BROWSER, look

BATCHES = [4, 8, 16, 32, 64, 128, 256, 512]
RATES = [float(f"{rate:.4g}") for rate in np.geomspace(2e-3, 0.6, 9)]
TABLES = ("final", "gain", "steps", "given")


def case_of(curves: LossCurves, **options: Any) -> Case:
    found = attach_schedules(fit(curves, **options, n_draws=200, seed=0))
    return Case(found, measured_cells(curves, **options))


def table(observable: str, seeds: int) -> Case:
    truth = Truth("surge", {"eps_max": 0.1, "b_noise": 30.0})
    grid = Grid(BATCHES, RATES, seeds)
    rng = np.random.default_rng(1)
    return case_of(simulate_table(truth, grid, rng, observable=observable))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    """One case an observable; the tuned learning rates come without replicates, and gains after a crossing too."""
    found = {name: table(name, seeds=1 if name == "given" else 3) for name in TABLES}
    truth, rng = Truth("sqrt", {"a": 0.01}), np.random.default_rng(2)
    curves = simulate_training(truth, Grid(BATCHES, RATES, 2), rng)
    found["crossing"] = case_of(curves, protocol="gain", horizon_steps=10)
    return found


@pytest.fixture(scope="module")
def pages(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name, case in cases.items():
        folders[name] = tmp_path_factory.mktemp(name)
        write_report(*case, folders[name])
    return folders


def html(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def markdown(folder: Path) -> str:
    return (folder / "report.md").read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Headings in order, each with whether something stands under it before the next of its level or above."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[int, str]] = []
        self.filled: list[bool] = []
        self._open: list[int] = []
        self._inside = ""
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if re.fullmatch("h[1-6]", tag):
            level = int(tag[1])
            self._open = [place for place in self._open if self.found[place][0] < level]
            self._open.append(len(self.found))
            self.found.append((level, ""))
            self.filled.append(False)
        if tag == "div" and "plot" in (dict(attrs).get("class") or ""):
            self._fill()
        if tag in ("script", "style") or re.fullmatch("h[1-6]", tag):
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside.startswith("h"):
            level, text = self.found[-1]
            self.found[-1] = (level, text + data)
        elif not self._inside and data.strip():
            self.words.append(data.strip())
            self._fill()

    def _fill(self) -> None:
        for place in self._open:
            self.filled[place] = True


def text_of(page: str) -> str:
    """What a reader sees, headings and figures' own words included."""
    outline = Outline(page)
    figures = re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)
    assert figures is not None
    return " ".join([*(text for _, text in outline.found), *outline.words, figures.group(1)])


def axis_titles(page: str) -> dict[str, tuple[str, str]]:
    found = re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    figures = json.loads(found.group(1))["figures"]
    return {
        name: (figure["layout"]["xaxis"]["title"]["text"], figure["layout"]["yaxis"]["title"]["text"])
        for name, figure in figures.items()
    }


EVERY = pytest.mark.parametrize("name", [*TABLES, "crossing"])


@EVERY
def test_no_heading_stands_over_nothing(pages: dict[str, Path], name: str) -> None:
    outline = Outline(html(pages[name]))
    assert all(text.strip() for _, text in outline.found)
    assert [text for (_, text), filled in zip(outline.found, outline.filled, strict=True) if not filled] == []
    lines = [line for line in markdown(pages[name]).splitlines() if line]
    assert not [line for line, then in pairwise(lines) if line.startswith("### ") and then.startswith("#")]
    assert not lines[-1].startswith("#")


@EVERY
def test_axes_say_what_is_on_them(pages: dict[str, Path], name: str) -> None:
    titles = axis_titles(html(pages[name]))
    shown = {
        figure.removeprefix("g0-").removeprefix("f0-").rsplit("-", 1)[0]: both
        for figure, both in titles.items()
    }
    rates = ("Batch size (examples)", "Optimal learning rate")
    surface = {"surface": ("Batch size (examples)", "Learning rate")}
    laws = {"optima": rates, "laws": rates}
    expected: dict[str, dict[str, tuple[str, str]]] = {
        "final": laws | surface,
        "gain": laws | surface,
        "steps": {"tradeoff": ("Examples to the goal", "Optimizer steps to the goal")},
        "given": laws,
        "crossing": laws | surface,
    }
    if name == "crossing":
        shown.pop("B_peak", None)
    assert shown == expected[name]


@pytest.mark.parametrize("name", ["final", "gain", "given", "crossing"])
def test_no_steps_to_a_loss_are_spoken_of_where_none_were_counted(pages: dict[str, Path], name: str) -> None:
    for text in (text_of(html(pages[name])), markdown(pages[name])):
        lowered = text.lower()
        assert "steps to loss" not in lowered
        assert "steps to the loss" not in lowered
        assert "fewest steps" not in lowered
        assert "b_crit: not" not in lowered


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_not_told_to_launch_runs_and_gets_advice(pages: dict[str, Path], name: str) -> None:
    for text in (text_of(html(pages[name])), markdown(pages[name])):
        assert "from scratch" not in text
        assert "launch" not in text.lower()
        assert "No schedule:" not in text
        assert "as the loss falls" not in text
        assert "that takes loss curves." in text


def test_the_final_losses_get_their_own_words(pages: dict[str, Path]) -> None:
    text = text_of(html(pages["final"]))
    assert "Lowest final loss" in text
    assert "lowest loss at that batch size (bright)" in text
    assert "For a training of this length, take" in text
    assert "never got there" not in text
    assert re.search(r"final loss \d", text)


def test_steps_without_learning_rates_answer_with_the_critical_batch_size(
    cases: dict[str, Case], pages: dict[str, Path]
) -> None:
    group = report_info(*cases["steps"]).groups[0]
    tradeoff = cases["steps"].fit.groups[0].targets[0].tradeoff
    assert tradeoff is not None
    assert tradeoff.b_crit.estimate is not None
    assert re.fullmatch(r"B_crit \d+ examples", group.title)
    assert group.decided
    assert group.advised
    cards = {card.title: card for card in group.cards}
    assert cards["B_crit"].value == f"{tradeoff.b_crit.estimate:.0f}"
    assert not {"B_peak", "Optimal learning rate", "Tuned learning rate"} & set(cards)
    assert sum(card.title.startswith("20% more") for card in group.cards) == 2
    for text in (text_of(html(pages["steps"])), markdown(pages["steps"])):
        assert "The data cannot tell" not in text
        assert "too few runs" not in text
        assert text.count("biased low under noise, for comparison") == 1
        assert "exponent is" in text


def test_tuned_rates_claim_no_interval_that_they_lack(cases: dict[str, Case], pages: dict[str, Path]) -> None:
    assert all(one.low is None for one in cases["given"].fit.groups[0].targets[0].optimal_lr)
    outline = Outline(html(pages["given"]))
    headings = [text for _, text in outline.found]
    assert "The tuned learning rates" in headings
    assert "What every learning rate and batch size gave" not in headings
    assert "Bars are 95% intervals." not in outline.words
    assert "learning rates that were tuned before" in markdown(pages["given"]).lower()


def test_a_crossing_without_a_schedule_names_the_protocol_that_gives_one(pages: dict[str, Path]) -> None:
    text = markdown(pages["crossing"])
    assert "over the next 10 steps, from where each run crossed the loss" in text
    assert "--protocol reach" in text


@EVERY
def test_the_terminal_cuts_nothing_off(cases: dict[str, Case], name: str) -> None:
    console = Console(file=io.StringIO(), width=80)
    print_summary(cases[name].fit, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert ("B_crit" in text) == (name == "steps")


@EVERY
def test_untrusted_names_stay_text(cases: dict[str, Case], name: str, tmp_path: Path) -> None:
    group = cases[name].fit.groups[0].model_copy(update={"group": {EVIL: f"</h2>{EVIL}|x"}})
    problem = {"run": EVIL, "what": f"{EVIL}: no schedule: [x](javascript:alert(1))"}
    found = cases[name].fit.model_copy(update={"groups": [group], "project": EVIL})
    found = found.model_validate(found.to_dict() | {"problems": [problem]})
    write_report(found, cases[name].cells, tmp_path)
    page = html(tmp_path)
    assert EVIL not in page
    assert page.count("<script") == 3
    assert "<script" not in markdown(tmp_path)
    assert "[x](" not in markdown(tmp_path)


def changed(group: GroupFit, place: int, **changes: Any) -> GroupFit:
    targets = list(group.targets)
    targets[place] = targets[place].model_copy(update=changes)
    return group.model_copy(update={"targets": targets})


@pytest.fixture
def written(demo: Case, tmp_path: Path) -> Callable[[GroupFit], tuple[str, str]]:
    """The page and its Markdown twin of the demo with another first group."""

    def write(group: GroupFit) -> tuple[str, str]:
        write_report(demo.fit.model_copy(update={"groups": [group]}), demo.cells, tmp_path)
        return text_of(html(tmp_path)), unescape(markdown(tmp_path))

    return write


Written = Callable[[GroupFit], tuple[str, str]]


def test_laws_are_weighed_three_ways_side_by_side(demo: Case, written: Written) -> None:
    group = demo.fit.groups[0]
    laws = [
        law.model_copy(update={"left_out_error": 0.123, "selection_frequency": 0.5})
        for law in group.targets[0].laws
    ]
    page, text = written(changed(group, 0, laws=laws))
    head = ["AICc", "Akaike weight", "Left-out error", "Bootstrap selection"]
    assert " ".join(head) in page
    assert "0.12 50%" in page
    assert re.search(r" *\| ".join(head), text)
    without = written(group)[1]
    assert "Akaike weight" in without
    assert "Left-out error" not in without
    assert "Bootstrap selection" not in without


def test_akaike_weights_are_spoken_of_only_where_laws_are_drawn(demo: Case, written: Written) -> None:
    group = demo.fit.groups[0]
    assert "a law's Akaike weight" in written(group)[0]
    lawless = [one.model_copy(update={"laws": [], "verdict": "inconclusive"}) for one in group.targets]
    page = written(group.model_copy(update={"targets": lawless}))[0]
    assert "Akaike" not in page
    assert "No law is fitted to these points" in page


def test_the_trade_off_shows_its_checks(demo: Case, written: Written) -> None:
    group = demo.fit.groups[0]
    tradeoff = group.targets[2].tradeoff
    assert tradeoff is not None
    trimmed = Interval(estimate=55.0, low=40.0, high=70.0, status="identified", definition="trimmed")
    other = Interval(estimate=14, low=9, high=21, status="identified", definition="20% more: 0.2 B_crit")
    checked = tradeoff.model_copy(
        update={
            "exponent": Interval(estimate=1.3, low=1.1, high=1.5, status="identified", definition="q of S"),
            "paper_b_crit": 61.0,
            "definitions": [other],
            "u_shape": UShape(p_value=0.004, from_batch_size=16, b_crit=trimmed),
        }
    )
    for text in written(changed(group, 2, tradeoff=checked)):
        assert (
            "Loss 0.6: the hyperbola does not hold: left free, its exponent is 1.3 (1.1 to 1.5), not 1."
            in text
        )
        assert "fitted from 16 on, B_crit is 55 (40 to 70)" in text
        assert "20% more: 0.2 B_crit" in text
        assert "biased low under noise, for comparison" in text
    assert "biased low" not in written(group)[0]


def test_claims_of_the_theory_are_stated_with_their_p_values_in_words(demo: Case, written: Written) -> None:
    def test(p_value: float | None, statement: str) -> list[TheoryTest]:
        return [TheoryTest(name="mean_field", statement=statement, p_value=p_value)]

    group = changed(demo.fit.groups[0], 0, tests=test(0.0004, "rejected here"))
    group = changed(group, 1, tests=test(0.3, "<b>not contradicted</b>"))
    group = changed(group, 2, tests=test(0.6, "not contradicted either"))
    for text in written(changed(group, 3, tests=test(None, "cannot be tested"))):
        assert "Very strong evidence against it at loss 1.8 (p < 0.001)" in text
        assert "no evidence against it at loss 1.2 and loss 0.6 (p = 0.3 to p = 0.6)" in text
        assert "not tested at loss 0.3" in text
        assert "Loss 1.8: rejected here." in text
    assert "Claims of the theory" not in written(demo.fit.groups[0])[0]


def test_the_drift_is_compared_with_no_movement_with_kaplan_and_with_levelling_off(
    demo: Case, written: Written
) -> None:
    group = demo.fit.groups[0]
    slope = Slope(
        exponent=1.2, low=0.8, high=1.6, p_value=0.002, status="identified", p_value_kaplan=0.0005,
        saturating_weight=0.95,
    )  # fmt: skip
    drift = group.drift.model_copy(update={"b_crit": slope})
    for text in written(group.model_copy(update={"drift": drift})):
        assert "B_crit ~ loss^-1.2 (95% interval -1.6 to -0.8; no movement: p = 0.002)" in text
        assert "(loss^-4.76, arXiv 2001.08361) is rejected: p < 0.001." in text
        assert "holds 95% of the Akaike weight: levelling off describes the losses better." in text
        assert text.count("Kaplan") == 1


def test_a_single_loss_is_not_asked_how_it_moves(demo: Case, written: Written) -> None:
    group = demo.fit.groups[0]
    for text in written(group.model_copy(update={"targets": group.targets[:1]})):
        assert "as the loss falls" not in text


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium to look at the page with: apt-get install chromium")
def test_the_pages_draw_in_a_browser_and_fit_a_phone(cases: dict[str, Case], tmp_path: Path) -> None:
    """All observables as groups of one page, since starting the browser takes longest."""
    groups = [
        case.fit.groups[0].model_copy(update={"group": {"observable": name}}) for name, case in cases.items()
    ]
    cells = pd.concat([case.cells.assign(group=place) for place, case in enumerate(cases.values())])
    together = Case(cases["final"].fit.model_copy(update={"groups": groups}), cells)
    found = look(together, tmp_path, 390)
    assert found["complaints"] == []
    assert found["page"] <= 390
    assert found["wide"] == []
    # Optima, laws and a surface of final, gain and crossing, the last with its drift; a trade-off; two of given.
    assert len(found["first"]) in (12, 13)
    assert min(found["first"] + found["chosen"]) >= 1
