"""What MLflow's own pages show of a published result, in a headless browser before a real server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow_stores import MlflowServer

pytest.importorskip("mlflow")
pytest.importorskip("playwright")

from mlflow import MlflowClient
from playwright.sync_api import sync_playwright

from surge_sweeps.fitting import fit, measured_cells
from surge_sweeps.report import write_report
from surge_sweeps.report.publication import publication_of
from surge_sweeps.schedule import attach_schedules
from surge_sweeps.simulate import Grid, Truth, simulate_training
from surge_sweeps.trackers.mlflow.publish import Published, publish
from surge_sweeps.trackers.publication import Publication

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None, reason="no chromium to look at the pages with: apt-get install chromium"
    ),
]
PATIENCE_MS = 40_000


class Visit:
    """A page of the server with what it asked for outside and complained about."""

    def __init__(self, page: Any, server: str) -> None:
        self.page = page
        self.server = server
        self.outside: list[tuple[str, str]] = []
        self.complaints: list[tuple[str, str]] = []
        page.set_default_timeout(PATIENCE_MS)
        page.context.route("**/*", self._pass_inside_alone)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(("page", str(error))))

    def open(self, fragment: str) -> None:
        self.page.goto(f"{self.server}/{fragment}")

    def report(self) -> Any:
        """The frame that shows report.html, once a plot is drawn in it; plots are drawn as they come into view."""
        frame = self.page.wait_for_selector("iframe").content_frame()
        frame.locator(".plot").first.scroll_into_view_if_needed()
        frame.wait_for_selector(".plot .main-svg", state="attached")
        return frame

    def _pass_inside_alone(self, route: Any) -> None:
        if route.request.url.startswith(("http://127.0.0.1", "blob:http://127.0.0.1", "data:")):
            route.continue_()
            return
        self.outside.append((route.request.frame.url, route.request.url))
        route.abort()

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append((message.location.get("url", ""), message.text))

    def ours(self, found: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """What came from the report, and not from MLflow's own pages: its frame's address is a blob's."""
        return [one for one in found if not one[0].startswith("http://127.0.0.1")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def publication(tmp_path_factory: pytest.TempPathFactory) -> Publication:
    rates = [float(f"{rate:.4g}") for rate in np.geomspace(1e-3, 1.0, 13)]
    truth = Truth("surge", {"eps_max": 0.1, "b_noise": 12.0})
    curves = simulate_training(
        truth, Grid([2, 4, 8, 16, 32, 64, 128, 256], rates, 3), np.random.default_rng(2)
    )
    found = attach_schedules(fit(curves, n_draws=200, seed=0))
    cells = measured_cells(curves)
    paths = write_report(found, cells, tmp_path_factory.mktemp("report"))
    return publication_of(found, cells, paths, draw=True)


@pytest.fixture(scope="module")
def published(shared_server: MlflowServer, publication: Publication) -> Published:
    client = MlflowClient(shared_server.uri)
    number = client.create_experiment("pages")
    sweep = client.create_run(number, tags={"surge.kind": "sweep", "surge.sweep_id": "s1"}, run_name="digits")
    client.set_terminated(sweep.info.run_id)
    return publish("pages", publication, shared_server.uri)


@pytest.fixture
def visit(browser: Any, shared_server: MlflowServer) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    yield Visit(context.new_page(), shared_server.uri)
    context.close()


def test_the_run_shows_the_recommendation_and_the_pictures(
    visit: Visit, published: Published, publication: Publication, tmp_path: Path
) -> None:
    visit.open(published.run)
    # The menu is that of trained models.
    visit.page.get_by_text("Model registry", exact=True).wait_for()
    first = visit.page.get_by_text(publication.headline[:40]).first
    first.wait_for()
    assert first.is_visible(), "the recommendation is read without opening the note"
    visit.page.get_by_text("Show more").first.click()
    visit.page.wait_for_function(
        "(count) => { const all = [...document.querySelectorAll('img[src*=\"get-artifact\"]')];"
        " return all.length === count && all.every((one) => one.complete && one.naturalWidth > 0); }",
        arg=len(publication.figures),
    )
    wide = visit.page.evaluate(
        "() => [...document.querySelectorAll('img[src*=\"get-artifact\"]')]"
        ".filter((one) => one.clientWidth > one.closest('p').clientWidth).map((one) => one.src)"
    )
    assert wide == []
    assert visit.page.locator("table:has-text('Batch size')").count() >= 1
    assert "keeps what stands below" not in visit.page.locator("body").inner_text()
    visit.page.screenshot(path=tmp_path / "run.png", full_page=True)
    # The link in the note leads to the report; MLflow opens it in a tab of its own.
    with visit.page.expect_popup() as opened:
        visit.page.get_by_role("link", name="Full report").first.click()
    assert opened.value.url == f"{visit.server}/{published.report}"
    assert visit.outside == []


def test_the_report_draws_in_mlflows_frame_and_loads_nothing(
    visit: Visit, published: Published, tmp_path: Path
) -> None:
    visit.open(published.report)
    frame = visit.report()
    frame.locator(".choices button").first.click()
    for details in frame.locator("details").all():
        details.evaluate("(one) => { one.open = true; }")
    frame.locator('a[href="#assumed"]').first.click()
    frame.wait_for_function(
        "() => Math.abs(document.getElementById('assumed').getBoundingClientRect().top) < innerHeight"
    )

    assert frame.locator(".plot .main-svg").count() >= 1, "a link inside the report stays in the report"
    visit.page.screenshot(path=tmp_path / "report.png")
    assert visit.ours(visit.complaints) == []
    assert visit.ours(visit.outside) == []
    # MLflow's own pages ask nobody outside either, as of 3.17.
    assert visit.outside == []


def test_tables_are_shown_as_tables(visit: Visit, published: Published, tmp_path: Path) -> None:
    visit.open(published.report.replace("report.html", "tables/optimal_lr.json"))
    visit.page.get_by_text("View as table").wait_for()
    visit.page.get_by_text("batch_size", exact=True).first.wait_for()
    visit.page.screenshot(path=tmp_path / "table.png")
    assert visit.outside == []


def test_metrics_are_drawn_as_curves(visit: Visit, published: Published, tmp_path: Path) -> None:
    visit.open(published.run.replace("?", "/model-metrics?"))
    # Charts are drawn as their section comes into view.
    visit.page.get_by_placeholder("Search metric charts").fill("optimal_lr_by_batch")
    visit.page.get_by_text("optimal_lr_by_batch").first.wait_for()
    visit.page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for(state="attached")
    visit.page.screenshot(path=tmp_path / "metrics.png")
