"""Results published on W&B by the real client, read back through its public API, cut off, and published again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from wandb_server import WandbServer
from wandb_server.clients import child_environment

from surge_sweeps.errors import MissingExtraError, SurgeError, TrackerError
from surge_sweeps.fitting import fit, measured_cells
from surge_sweeps.fitting.result import DriftFit, GroupFit, Interval, Slope, SurgeFit, TargetFit
from surge_sweeps.report import write_report
from surge_sweeps.report.publication import key_results, publication_of
from surge_sweeps.schedule import attach_schedules
from surge_sweeps.simulate import Grid, Truth, simulate_training
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.publication import Publication, PublishedTable, RunNames
from surge_sweeps.trackers.wandb import publish as publishing
from surge_sweeps.trackers.wandb import report_run
from surge_sweeps.trackers.wandb.client import WandbProject
from surge_sweeps.trackers.wandb.publish import publish
from surge_sweeps.trackers.wandb.reader import WandbReader

wandb = pytest.importorskip("wandb")

PROJECT = WandbProject("test-entity", "digits")
RUN = "test-entity/digits/surge-report"
NAMES = RunNames(loss="eval/loss", lr="lr", batch_size="batch_size", examples="examples")
#: Requests that read and change nothing.
READS = {"Viewer", "GetDefaultEntity", "Runs", "ProjectViews"}


class Study(NamedTuple):
    """A fit, the folder of its report, and what is published of it."""

    fit: SurgeFit
    folder: Path
    publication: Publication


def study(law: str, parameters: dict[str, float], seed: int, folder: Path) -> Study:
    rates = [float(f"{rate:.4g}") for rate in np.geomspace(2e-3, 0.6, 9)]
    grid = Grid([4, 8, 16, 32, 64, 128], rates, 2)
    curves = simulate_training(Truth(law, parameters), grid, np.random.default_rng(seed))
    found = attach_schedules(fit(curves, n_draws=200, seed=0))
    cells = measured_cells(curves)
    paths = write_report(found, cells, folder)
    return Study(found, folder, publication_of(found, cells, paths, runs=NAMES))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return study("surge", {"eps_max": 0.1, "b_noise": 30.0}, 2, tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The same project after more runs: another verdict, other losses."""
    return study("sqrt", {"a": 0.01}, 3, tmp_path_factory.mktemp("second"))


@pytest.fixture
def server(wandb_server: WandbServer) -> Iterator[WandbServer]:
    """A server with one trial in its project."""
    wandb_server.add_run("test-entity", "digits", "trial", job_type="train", summary={"eval/loss": 0.3})
    yield wandb_server
    wandb_server.faults.clear()


def small(value: float = 1.0) -> Publication:
    """A publication made by hand."""
    table = PublishedTable(("x", "y"), ((1.0, value),))
    scalars = {"surge/all/b_peak": value}
    return Publication("Small", "", "Answer.", "Details.", scalars, table, table, {"fit.json": b"%f" % value})


def versions(server: WandbServer, name: str = "surge-report") -> list[tuple[int, str, list[str]]]:
    artifacts = [one for one in server.store.artifacts.values() if one.collection == name]
    return [(one.version, one.state, one.aliases) for one in artifacts]


def check_whole(server: WandbServer, publication: Publication, rows: int = 1) -> None:
    """One run, finished, with everything in it, and nothing twice."""
    reports = [run for run in server.runs if run.job_type == "surge-report"]
    assert [run.path for run in reports] == [RUN]
    run = reports[0]
    assert run.state == "finished"
    assert run.summary["surge/fingerprint"] == publication.fingerprint()
    own = {key: run.summary[key] for key in run.summary if key.startswith("surge/")}
    extra = {"surge/fingerprint", "surge/optimal_lr", "surge/optimal_lr_chart_table"}
    assert {key: value for key, value in own.items() if key not in extra} == dict(publication.scalars)
    assert extra <= set(own)
    assert len(run.history) == rows
    assert len({aliases.index("latest") for _, _, aliases in versions(server) if "latest" in aliases}) == 1
    assert all(state == "COMMITTED" for _, state, _ in versions(server))
    assert set(run.config["_wandb"]["value"]["visualize"]) == {"surge/optimal_lr_chart"}


# ---- there and back


def test_what_was_published_is_read_back(server: WandbServer, first: Study, tmp_path: Path) -> None:
    done = publish(PROJECT, first.publication)

    assert done.changed
    assert done.url.endswith("/test-entity/digits/runs/surge-report")
    check_whole(server, first.publication)
    api = wandb.Api()
    run = api.run(RUN)
    assert (run.job_type, run.state) == ("surge-report", "finished")
    for name, value in first.publication.scalars.items():
        assert run.summary[name] == value
    assert "Recommendation" in run.notes
    artifact = api.artifact("test-entity/digits/surge-report:latest")
    assert artifact.type == "surge-fit"
    folder = Path(artifact.download(str(tmp_path / "artifact")))
    written = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written
    (table,) = [
        one for one in run.logged_artifacts() if one.name.startswith("run-surge-report-surgeoptimal_lr-")
    ]
    rows = table.get("surge/optimal_lr")
    assert tuple(rows.columns) == first.publication.optima.columns
    assert [tuple(row) for row in rows.data] == [tuple(row) for row in first.publication.optima.rows]


def test_nothing_is_written_when_nothing_changed(server: WandbServer, first: Study) -> None:
    publish(PROJECT, first.publication, with_page=True)
    before = versions(server)
    server.operations.clear()

    done = publish(PROJECT, first.publication, with_page=True)

    assert (done.changed, done.page_changed) == (False, False)
    assert set(server.operations.counts()) <= READS
    assert versions(server) == before
    check_whole(server, first.publication)


def test_a_changed_result_is_a_new_version_of_the_same_run(
    server: WandbServer, first: Study, second: Study
) -> None:
    assert set(first.publication.scalars) - set(second.publication.scalars), "some numbers no longer hold"
    urls = {publish(PROJECT, one.publication).url for one in (first, second)}

    assert len(urls) == 1
    check_whole(server, second.publication)
    assert versions(server) == [(0, "COMMITTED", []), (1, "COMMITTED", ["latest"])]

    # An earlier result that holds again is no third version.
    assert publish(PROJECT, first.publication).changed
    check_whole(server, first.publication)
    assert versions(server) == [(0, "COMMITTED", ["latest"]), (1, "COMMITTED", [])]


def test_the_chart_shows_the_newest_table(server: WandbServer) -> None:
    publish(PROJECT, small(1.0))
    publish(PROJECT, small(2.0))

    run = server.run(RUN)
    chart = run.config["_wandb"]["value"]["visualize"]["surge/optimal_lr_chart"]["panel_config"]
    assert chart["panelDefId"] == "wandb/scatter/v0"
    assert "surge/optimal_lr_chart_table" in str(chart["userQuery"])
    files = server.files_of(run)
    assert b"2.0" in files[run.summary["surge/optimal_lr_chart_table"]["path"]]


def test_an_empty_result_can_be_published(server: WandbServer) -> None:
    empty = PublishedTable(("x", "y"), ())
    nothing = replace(small(), optima=empty, chart=empty, scalars={})
    publish(PROJECT, nothing)
    publish(PROJECT, small(3.0))

    check_whole(server, small(3.0))


def test_a_publication_is_no_trial(server: WandbServer) -> None:
    for rate in (0.1, 0.2):
        server.add_run(
            "test-entity", "digits", config={"lr": rate, "batch_size": 8, "seed": 0}, job_type="train",
            history={"_step": [1, 2], "eval/loss": [1.0, 0.5], "examples": [8, 16]},
            summary={"eval/loss": 0.5, "surge/status": "finished"},
        )  # fmt: skip
    before = WandbReader().collect(PROJECT.path, ReadOptions())
    publish(PROJECT, small())
    after = WandbReader().collect(PROJECT.path, ReadOptions())

    assert list(after.runs["run"]) == list(before.runs["run"])
    assert after.problems == before.problems


def test_parts_of_a_project_are_published_beside_it(server: WandbServer) -> None:
    whole, part = small(), replace(small(), scope='{"config.depth": 2}')
    addresses = [
        publish(PROJECT, whole).url,
        publish(PROJECT, part).url,
        publish(PROJECT._replace(sweep="ab12cd34"), whole).url,
        publish(PROJECT, part).url,
    ]

    names = [address.rpartition("/")[2] for address in addresses]
    assert names == ["surge-report", names[1], "surge-report-ab12cd34", names[1]]
    assert len(set(names)) == 3


def test_publishing_goes_to_the_server_whatever_the_mode(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    publish(PROJECT, small())

    check_whole(server, small())
    assert not (tmp_path / "wandb").exists()


def test_a_row_without_its_chart_is_not_written_again(server: WandbServer) -> None:
    """What a publication that was cut off between the two leaves behind."""
    publish(PROJECT, small())
    run = server.run(RUN)
    del run.config["_wandb"]["value"]["visualize"], run.summary["surge/fingerprint"]
    publish(PROJECT, small(2.0))

    check_whole(server, small(2.0))
    assert b"2.0" in server.files_of(run)[run.summary["surge/optimal_lr_chart_table"]["path"]]


def test_variables_of_a_trial_say_nothing_of_a_report(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RUN_ID", "SWEEP_ID", "RUN_GROUP", "TAGS", "NAME", "JOB_TYPE", "RESUME"):
        monkeypatch.setenv(f"WANDB_{name}", "must")
    wandb.teardown()  # what knows the environment from before
    publish(PROJECT, small())

    check_whole(server, small())
    run = server.run(RUN)
    assert (run.sweep, run.group, run.tags, run.display_name) == (None, None, [], "surge-report")


def test_a_run_that_is_open_stays_open(server: WandbServer) -> None:
    with wandb.init(project="digits", id="open", settings=wandb.Settings(silent=True)) as run:
        run.log({"x": 1})
        publish(PROJECT, small())
        run.log({"x": 2})

    check_whole(server, small())
    assert len(server.run("test-entity/digits/open").history) == 2


# ---- ids


def test_the_id_of_a_deleted_run_is_not_asked_for_twice(server: WandbServer) -> None:
    server.faults.add("UpsertBucket", 409, 2, where=lambda call: call.get("name") == "surge-report")
    began = time.monotonic()
    done = publish(PROJECT, small())

    assert done.url.endswith("/surge-report_2")
    assert time.monotonic() - began < 10, "W&B's client repeats this for 90 seconds"
    assert publish(PROJECT, small(2.0)).url == done.url
    assert not publish(PROJECT, small(2.0)).changed


def test_a_run_of_the_users_own_is_left_alone(server: WandbServer) -> None:
    own = server.add_run("test-entity", "digits", "surge-report", job_type="train", summary={"x": 1})
    assert publish(PROJECT, small()).url.endswith("/surge-report_2")
    assert own.summary == {"x": 1}


# ---- the page


def page_of(server: WandbServer) -> Any:
    reports = pytest.importorskip("wandb_workspaces.reports.v2")
    (page,) = wandb.Api().reports(PROJECT.path)
    return reports.Report.from_url(page.url)


def test_a_page_has_the_answer_on_top_and_live_panels_below(server: WandbServer, first: Study) -> None:
    done = publish(PROJECT, first.publication, with_page=True)

    page = page_of(server)
    assert done.page_url == page.url
    assert done.page_changed
    kinds = [type(block).__name__ for block in page.blocks]
    assert kinds == ["MarkdownBlock", "P", "H2", "MarkdownBlock", "PanelGrid", "H2", "PanelGrid"]
    assert page.blocks[0].text == first.publication.answer
    assert "| Batch size |" in page.blocks[3].text
    optimum, runs = page.blocks[4], page.blocks[6]
    assert "surge-report" in optimum.runsets[0].filters
    assert optimum.panels[0].query["summaryTable"] == {"tableKey": "surge/optimal_lr_chart_table"}
    curves, ends = runs.panels
    assert (curves.x.name, curves.y[0].name, curves.groupby.name) == ("examples", "eval/loss", "batch_size")
    assert (ends.x.name, ends.y.name, ends.log_x) == ("lr", "eval/loss", True)
    assert runs.runsets[0].filters == "Metric(\"JobType\") != 'surge-report'"


def test_a_page_is_updated_and_its_comments_stay(server: WandbServer, first: Study, second: Study) -> None:
    before = publish(PROJECT, first.publication, with_page=True)
    (view,) = server.store.views.values()
    spec = view.fields["spec"]
    assert '"discussionThreads":[]' in spec
    view.fields["spec"] = spec.replace('"discussionThreads":[]', '"discussionThreads":[{"id":"comment"}]')
    after = publish(PROJECT, second.publication, with_page=True)

    assert (after.page_url, after.page_changed) == (before.page_url, True)
    assert len(server.store.views) == 1
    assert page_of(server).blocks[0].text == second.publication.answer
    assert '"comment"' in view.fields["spec"]


def test_a_page_outlives_its_run_and_a_copy_is_left_alone(server: WandbServer) -> None:
    before = publish(PROJECT, small(), with_page=True)
    (view,) = server.store.views.values()
    copy = replace(view, id="Q29weQ==", created_at="2999-01-01T00:00:00", fields=dict(view.fields))
    server.store.views[copy.id] = copy
    server.store.runs.clear()
    server.faults.add("UpsertBucket", 409, 1)
    after = publish(PROJECT, small(2.0), with_page=True)

    assert after.url == f"{before.url}_2"
    assert (after.page_url, after.page_changed) == (before.page_url, True)
    assert copy.fields["description"] != view.fields["description"]


def test_a_page_whose_answer_was_lost_is_there_once(server: WandbServer) -> None:
    server.faults.add("upsertView", "drop_after")
    done = publish(PROJECT, small(), with_page=True)

    assert server.operations.counts()["upsertView"] == 2
    assert len(server.store.views) == 1
    assert publish(PROJECT, small(), with_page=True).page_url == done.page_url


def test_a_page_can_follow_later(server: WandbServer, first: Study) -> None:
    publish(PROJECT, first.publication)
    done = publish(PROJECT, first.publication, with_page=True)
    assert (done.changed, done.page_changed) == (False, True)


def test_a_page_of_a_sweep_or_a_table_shows_its_own_runs_only(server: WandbServer) -> None:
    publish(PROJECT._replace(sweep="ab12cd34"), replace(small(), runs=RunNames("loss")), with_page=True)
    page = page_of(server)
    assert "Metric(\"Sweep\") == 'ab12cd34'" in page.blocks[-1].runsets[0].filters
    assert [type(panel).__name__ for panel in page.blocks[-1].panels] == ["LinePlot"]
    server.store.views.clear()

    publish(PROJECT, replace(small(), scope="runs.csv"), with_page=True)
    assert [type(block).__name__ for block in page_of(server).blocks][-2:] == ["MarkdownBlock", "PanelGrid"]


def test_names_cannot_add_markup(server: WandbServer) -> None:
    evil = "x](http://evil.example) <script>alert(1)</script> | **b**\n# h"
    drift = DriftFit(b_peak=Slope(), b_crit=Slope())
    group = GroupFit(group={"optimizer": evil}, targets=[], drift=drift)
    found = SurgeFit(project=f"a/{evil}", source=evil, batch_unit="examples", problems=[], groups=[group])
    cells = measured_cells(
        simulate_training(Truth("sqrt", {"a": 0.01}), Grid([4, 8], [0.1], 1), np.random.default_rng(0))
    )
    publication = publication_of(found, cells.iloc[:0], [])
    publish(PROJECT, publication, with_page=True)

    page = page_of(server)
    assert "<" not in page.blocks[0].text
    assert "x\\](http" in page.blocks[0].text
    assert "\n# h" not in page.blocks[0].text
    assert page.title.isascii()
    assert "<" not in page.title + page.description
    assert all(
        name.replace("/", "").replace("-", "").replace("_", "").isalnum() for name in publication.scalars
    )


# ---- faults


KINDS: tuple[Any, ...] = (429, 500, "drop", "drop_after")
OPERATIONS = (
    "Runs", "UpsertBucket", "CreateArtifact", "CreateArtifactFiles", "PUT", "CommitArtifact", "ArtifactByID",
    "file_stream", "Run", "ProjectViews", "upsertView",
)  # fmt: skip


@pytest.mark.parametrize("first_kind", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_faults_lose_nothing_and_double_nothing(server: WandbServer, first_kind: int) -> None:
    for place, operation in enumerate(OPERATIONS):
        server.faults.add(operation, KINDS[(place + first_kind) % len(KINDS)], seconds=0.05)
    publish(PROJECT, small(), with_page=True)

    assert [fault.operation for fault in server.faults.pending()] == []
    check_whole(server, small())
    assert versions(server) == [(0, "COMMITTED", ["latest"])]
    assert len(server.store.views) == 1
    done = publish(PROJECT, small(), with_page=True)
    assert (done.changed, done.page_changed) == (False, False)


CHILD = """
from surge_sweeps.trackers.base import ReadOptions
from surge_sweeps.trackers.publication import Publication, PublishedTable
from surge_sweeps.trackers.wandb.client import WandbProject
from surge_sweeps.trackers.wandb.publish import publish
from surge_sweeps.trackers.wandb.reader import WandbReader
publish(WandbProject(*{project!r}), {publication!r})
"""


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("UpsertBucket", "CreateArtifact")]


@pytest.mark.parametrize("operation", [*SLOW, "CommitArtifact", "file_stream"])
def test_a_publication_cut_off_is_completed(server: WandbServer, operation: str, tmp_path: Path) -> None:
    fault = server.faults.add(operation, "slow", seconds=2.0)
    code = CHILD.format(project=tuple(PROJECT), publication=small())
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        # What a killed process leaves behind lies with the test.
        env=child_environment({"TMPDIR": str(tmp_path)}),
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not fault.happened:
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    server.crash_active_runs()
    publish(PROJECT, small())

    check_whole(server, small())
    assert versions(server) == [(0, "COMMITTED", ["latest"])]
    assert not publish(PROJECT, small()).changed


# ---- errors


def test_no_key_is_a_sentence(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(TrackerError, match="wandb login"):
        publish(PROJECT, small())


def test_a_wrong_key_is_a_sentence_without_the_key(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "1" * 40)
    with pytest.raises(TrackerError, match="key") as caught:
        publish(PROJECT, small())
    assert "1" * 40 not in str(caught.value)


def test_an_unknown_project_is_a_sentence_and_is_not_made(server: WandbServer) -> None:
    with pytest.raises(TrackerError, match="no project 'test-entity/digist'"):
        publish(PROJECT._replace(project="digist"), small())
    assert {run.project for run in server.runs} == {"digits"}


def test_a_project_that_cannot_be_written_is_a_sentence(server: WandbServer) -> None:
    server.faults.add("UpsertBucket", 403, 100)
    with pytest.raises(TrackerError, match="your key may not do that"):
        publish(PROJECT, small())
    assert len(server.runs) == 1


@pytest.mark.parametrize("operation", ["CommitArtifact", "file_stream"])
def test_a_server_that_goes_away_is_a_sentence(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    few = {name: 1 if name.endswith("_max") else 2 for name in report_run._BOUNDS}
    monkeypatch.setattr(report_run, "_BOUNDS", few)
    monkeypatch.setattr(publishing, "_SHOW_SECONDS", 0.2)
    server.faults.add(operation, 500, 100)
    with pytest.raises(TrackerError, match=r"W&B|does not hold all"):
        publish(PROJECT, small())
    server.faults.clear()
    publish(PROJECT, small())
    check_whole(server, small())


def test_a_missing_package_is_named_before_anything_is_written(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.delitem(sys.modules, "wandb_workspaces.reports.v2", raising=False)
    with pytest.raises(MissingExtraError, match="wandb"):
        publish(PROJECT, small(), with_page=True)
    assert len(server.runs) == 1


# ---- what is published of a fit


def interval(status: str, estimate: float | None, low: float | None, high: float | None) -> Interval:
    return Interval(estimate=estimate, low=low, high=high, status=status, definition="d")  # type: ignore[arg-type]


def test_only_what_the_data_identify_is_published_as_a_number() -> None:
    def target(loss: float, b_peak: Interval) -> TargetFit:
        return TargetFit(
            protocol="reach", loss=loss, horizon_steps=None, start="scratch", optimal_lr=[], stability_edge=[],
            tradeoff=None, laws=[], verdict="inconclusive", reasons=[], b_peak=b_peak,
            b_noise=interval("not_identified", 5.0, 1.0, None), minimum_detectable_kappa=None,
        )  # fmt: skip

    targets = [
        target(1.0, interval("identified", 30.0, 20.0, None)),
        target(0.5, interval("lower_bound", 90.0, 64.0, None)),
        target(0.2, interval("upper_bound", None, None, 8.0)),
        target(0.1, interval("not_identified", 17.0, 1.0, 300.0)),
    ]
    drift = DriftFit(b_peak=Slope(), b_crit=Slope())
    groups = [
        GroupFit(group={"opt": name}, targets=targets[:size], drift=drift)
        for name, size in (("a", 4), ("a!", 0))
    ]
    found = key_results(SurgeFit(project="p", source="s", batch_unit="examples", problems=[], groups=groups))

    assert {name: value for name, value in found.items() if "b_" in name} == {
        "surge/opt-a/reach-loss-1/b_peak": 30.0,
        "surge/opt-a/reach-loss-1/b_peak_low": 20.0,
        "surge/opt-a/reach-loss-0_5/b_peak_at_least": 64.0,
        "surge/opt-a/reach-loss-0_2/b_peak_at_most": 8.0,
    }
    assert found["surge/opt-a/reach-loss-0_1/verdict"] == "inconclusive"


def test_a_report_that_is_gone_is_a_sentence(first: Study) -> None:
    cells = measured_cells(
        simulate_training(Truth("sqrt", {"a": 0.01}), Grid([4, 8], [0.1], 1), np.random.default_rng(0))
    )
    with pytest.raises(SurgeError, match="Make the report again"):
        publication_of(first.fit, cells.iloc[:0], [first.folder / "gone.json"])
