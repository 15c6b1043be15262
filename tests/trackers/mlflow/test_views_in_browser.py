"""The saved views as a user sees them: opened by their links in Chromium, from a real server, in a fresh profile."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("mlflow")
pytest.importorskip("playwright")

from mlflow import MlflowClient
from mlflow_stores import MlflowServer
from playwright.sync_api import Browser, Page, expect, sync_playwright

from surge_sweeps.trackers import open_tracker
from surge_sweeps.trackers.base import RunRecord
from surge_sweeps.trackers.mlflow.views import View, ViewNames, write_views

pytestmark = pytest.mark.slow

SIZES, RATES, SEEDS = (8, 16), (0.02, 0.04, 0.08), (0, 1, 2)
LIMIT_MS = 60_000
#: What MLflow's own pages say on the console, with views and without.
OWN_ERRORS = re.compile(
    r"status of 404 .*/mlflow/users/current"  # a server without accounts
    r"|ResizeObserver loop"
    r"|<\w+> attribute \w+: "  # its parallel coordinates, where they are drawn before their box has a height
)


def last_loss(size: int, rate: float, seed: int) -> float:
    """A bowl that moves with the batch size; one run diverged, and one went to infinity."""
    if (size, rate) == (8, 0.08):
        return math.nan if seed == 0 else 1.0
    if (size, rate, seed) == (16, 0.08, 1):
        return math.inf
    return 1.0 + math.log2(rate / 0.02 * math.sqrt(16 / size)) ** 2 / 4 + 0.01 * seed


@pytest.fixture(scope="module")
def views(shared_server: MlflowServer) -> list[View]:
    """Those of a small sweep that our own writer logged."""
    tracker = open_tracker("mlflow", "views in browser", shared_server.uri)
    tracker.open_sweep("s1", "small", {})
    tracker.write_runs(
        "s1", [_record(size, rate, seed) for size in SIZES for rate in RATES for seed in SEEDS]
    )
    tracker.close()
    client = MlflowClient(shared_server.uri)
    number = client.get_experiment_by_name("views in browser").experiment_id
    return write_views(client, number, ViewNames("train/loss", "lr", "batch_size", "seed"))


def _record(size: int, rate: float, seed: int) -> RunRecord:
    loss = last_loss(size, rate, seed)
    points = [(step, 2.0 + 1 / (1 + step)) for step in (0, 1, 2, 4, 8)] + [(16, loss)]
    status = "finished" if math.isfinite(loss) else "diverged"
    config = {"lr": rate, "batch_size": size, "seed": seed}
    return RunRecord(config, f"{size}-{rate}-{seed}", status, {"train/loss": points})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_view(browser: Browser, shared_server: MlflowServer) -> Iterator[Callable[[View, str], Page]]:
    """Open a view's link and wait until a chart that matches the selector is there; it must load cleanly."""
    context = browser.new_context(viewport={"width": 1700, "height": 1300})
    page = context.new_page()
    said: list[str] = []
    hosts: set[str | None] = set()
    page.on(
        "console",
        lambda line: said.append(f"{line.text} {line.location['url']}") if line.type == "error" else None,
    )
    page.on("pageerror", lambda error: said.append(f"uncaught: {error}"))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))

    def opened(view: View, selector: str) -> Page:
        page.goto(f"{shared_server.uri}/{view.url_fragment}")
        expect(page.locator(selector).first).to_be_visible(timeout=LIMIT_MS)
        expect(page.get_by_role("button", name=view.name)).to_be_visible()
        return page

    yield opened
    context.close()
    assert [line for line in said if OWN_ERRORS.search(line) is None] == []
    assert hosts <= {"127.0.0.1", None}  # None: data that is part of the page


def drawn(page: Page, count: int) -> list[list[dict[str, Any]]]:
    """The traces of every Plotly chart of the page, top to bottom, once there are `count` with data."""
    page.wait_for_function(
        """count => {
            const charts = [...document.querySelectorAll('.js-plotly-plot')];
            return charts.length === count && charts.every(chart => chart.querySelector('.trace, .contour'));
        }""",
        arg=count,
        timeout=LIMIT_MS,
    )
    # Through JSON, which has no NaN: null stands for it.
    text = page.evaluate(
        """() => JSON.stringify([...document.querySelectorAll('.js-plotly-plot')].map(chart =>
            chart.data.map(({type, name, x, y, z}) => ({type, name, x, y, z}))))"""
    )
    return json.loads(text)


def test_the_trials_are_listed_best_first_and_drawn(
    views: list[View], open_view: Callable[[View, str], Page]
) -> None:
    page = open_view(views[0], ".parcoords")
    scatter, curves = drawn(page, 2)
    finite = sorted(
        (loss, math.log10(rate))
        for size in SIZES for rate in RATES for seed in SEEDS
        if math.isfinite(loss := last_loss(size, rate, seed))
    )  # fmt: skip
    assert sorted(zip(scatter[0]["y"], scatter[0]["x"], strict=True)) == [
        (pytest.approx(loss), pytest.approx(rate)) for loss, rate in finite
    ]
    assert len({trace["name"] for trace in curves}) == len(finite)
    assert all(trace["x"][0] == 1 for trace in curves)  # step 0 has no place on a logarithmic axis
    axes = page.evaluate(
        "() => { const it = [...document.querySelectorAll('.js-plotly-plot')].at(-1).layout;"
        " return [it.xaxis.type, it.yaxis.type] }"
    )
    assert axes == ["log", "log"]
    assert page.locator(".parcoords canvas").count() > 0
    rows = page.locator("[role=row] a").all_inner_texts()
    assert rows[0] == "lr=0.02 batch=16 seed=0"
    page.get_by_role("button", name=views[0].name).click()
    for view in views:
        expect(page.get_by_text(view.name, exact=True).last).to_be_visible()


def test_the_means_over_seeds_are_those_of_whole_groups(
    views: list[View], open_view: Callable[[View, str], Page]
) -> None:
    page = open_view(views[1], ".js-plotly-plot")
    contour, scatter, curves = drawn(page, 3)
    expected = sorted(
        (math.log2(size), math.log10(rate), sum(losses) / len(losses))
        for size in SIZES for rate in RATES
        if all(map(math.isfinite, losses := [last_loss(size, rate, seed) for seed in SEEDS]))
    )  # fmt: skip
    assert len(expected) == 4
    assert [trace["type"] for trace in contour] == ["contour", "scatter"]
    shown = sorted(zip(contour[0]["y"], contour[0]["x"], contour[0]["z"], strict=True))
    assert shown == [tuple(map(pytest.approx, point)) for point in expected]
    assert sorted(scatter[0]["y"]) == pytest.approx(sorted(mean for *_, mean in expected))
    assert len(curves) >= len(expected)
    expect(page.get_by_text("mean over seeds, none diverged").first).to_be_visible()
