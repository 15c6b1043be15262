"""The test server against the real client: what other tests build on is checked here, the client's half included."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from wandb_server import Exports, WandbServer
from wandb_server.clients import child_environment, client_environment, kill_session
from wandb_server.faults import Kind

wandb = pytest.importorskip("wandb")

ENTITY, PROJECT = "team", "study"

SWEEP = """\
program: train.py
entity: team
project: study
name: grid
method: grid
metric: {name: train/loss, goal: minimize}
parameters:
  lr: {values: [0.1, 0.3]}
  batch_size: {values: [8, 32]}
"""

# resumes by itself; "preempt" ends in the middle the first time, "wait" sits there until it is killed
TRAIN = """\
import argparse, os, sys, time
from pathlib import Path
import wandb
p = argparse.ArgumentParser()
p.add_argument("--lr", type=float)
p.add_argument("--batch_size", type=int)
a = p.parse_args()
settings = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off", x_file_stream_transmit_interval=1)
mode, marks = os.environ.get("MODE", ""), Path(os.environ.get("MARKS", "."))
with wandb.init(config=vars(a), resume="allow", settings=settings) as run:
    with (marks / "starts").open("a") as f:
        f.write(f"{run.id} {run.starting_step}\\n")
    for step in range(run.starting_step, 10):
        run.log({"train/loss": a.lr / (step + 1), "samples": a.batch_size * (step + 1)}, step=step)
        if mode == "preempt" and step == 4 and run.starting_step == 0:
            run.mark_preempting()
            run.finish(exit_code=143)
            sys.exit(143)
        if mode == "wait" and step == 4:
            time.sleep(60)
"""


def settings() -> Any:
    """Made anew for each run: ``wandb.init`` writes into what it is given."""
    return wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path


def make_sweep(wandb_cli: Callable[..., Any]) -> str:
    made = wandb_cli("sweep", "sweep.yaml")
    assert made.returncode == 0, made.stderr
    found = re.search(r"with ID: (\w+)", made.stderr)
    assert found, made.stderr
    return f"{ENTITY}/{PROJECT}/{found[1]}"


def register_sweep(lr: tuple[float, ...] = (0.1,), batch_size: tuple[int, ...] = (8,)) -> str:
    """``make_sweep`` without the start of another Python, and with a grid of choice."""
    config = yaml.safe_load(SWEEP)
    config["parameters"] = {"lr": {"values": list(lr)}, "batch_size": {"values": list(batch_size)}}
    return f"{ENTITY}/{PROJECT}/{wandb.sweep(config, entity=ENTITY, project=PROJECT)}"


def cells(server: WandbServer) -> Counter[tuple[float, int]]:
    return Counter((run.values["lr"], run.values["batch_size"]) for run in server.runs)


GRID = Counter({(lr, batch): 1 for lr in (0.1, 0.3) for batch in (8, 32)})


# ---- sweeps and agents


def test_grid_by_the_real_command_line(
    wandb_server: WandbServer, wandb_cli: Callable[..., Any], study: Path
) -> None:
    path = make_sweep(wandb_cli)
    agent = wandb_cli("agent", path)
    assert agent.returncode == 0, agent.stderr
    assert cells(wandb_server) == GRID
    assert {run.state for run in wandb_server.runs} == {"finished"}
    sweep = wandb.Api().sweep(path)
    assert (sweep.state, sweep.expected_run_count, len(sweep.runs)) == ("FINISHED", 4, 4)
    assert sweep.best_run().summary["train/loss"] == pytest.approx(0.01)


def test_two_agents_share_a_grid(
    wandb_server: WandbServer, wandb_popen: Callable[..., Any], study: Path
) -> None:
    path = register_sweep(lr=(0.1, 0.3), batch_size=(8, 32))
    agents = [wandb_popen("agent", path) for _ in range(2)]
    assert [agent.wait(60) for agent in agents] == [0, 0]
    assert cells(wandb_server) == GRID
    assert all(agent.total_runs for agent in wandb_server.store.agents.values())


def test_preempted_run_is_resumed(
    wandb_server: WandbServer, wandb_cli: Callable[..., Any], study: Path
) -> None:
    agent = wandb_cli("agent", register_sweep(), env={"MODE": "preempt"})
    assert agent.returncode == 0, agent.stderr
    (run,) = wandb_server.runs
    assert (study / "starts").read_text().split() == [run.name, "0", run.name, "5"]
    assert (run.state, [row["_step"] for row in run.history.rows()]) == ("finished", list(range(10)))


def test_killed_agent_leaves_a_crashed_run(
    wandb_server: WandbServer, wandb_cli: Callable[..., Any], wandb_popen: Callable[..., Any], study: Path
) -> None:
    path = register_sweep(batch_size=(8, 32))
    agent = wandb_popen("agent", path, env={"MODE": "wait"})
    # the client holds a step back until the next one begins: four of five are there
    wait_for(lambda: wandb_server.runs and len(wandb_server.runs[0].history) == 4)
    kill_session(agent)
    assert wandb_server.runs[0].state == "running"  # nobody told the server
    (crashed,) = wandb_server.crash_active_runs()
    assert wandb.Api().run(crashed.path).state == "crashed"
    assert wandb_cli("agent", path).returncode == 0
    # each cell once: a crashed one is not handed out again
    assert [(run.values["batch_size"], run.state) for run in wandb_server.runs] == [
        (8, "crashed"),
        (32, "finished"),
    ]


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.mark.slow
def test_sweep_states_and_updates(
    wandb_server: WandbServer, wandb_cli: Callable[..., Any], study: Path
) -> None:
    path = register_sweep(batch_size=(8, 32))
    (sweep,) = wandb_server.sweeps
    sweep.state = "RUNNING"  # a sweep without agents is pending, and the client refuses to pause that
    for flag, state in (("--pause", "PAUSED"), ("--stop", "FINISHED")):
        assert wandb_cli("sweep", flag, path).returncode == 0
        assert sweep.state == state
    (study / "sweep.yaml").write_text(SWEEP.replace("[8, 32]", "[8, 32, 128]"))
    assert wandb_cli("sweep", "--update", path, "sweep.yaml").returncode == 0
    assert [found.expected_run_count for found in wandb.Api().project(PROJECT, ENTITY).sweeps()] == [6]


def test_deleted_sweep(wandb_server: WandbServer, wandb_cli: Callable[..., Any], study: Path) -> None:
    path = register_sweep(batch_size=(8, 32))
    wandb_server.delete_sweep(wandb_server.sweeps[0].name)
    with pytest.raises(Exception, match="Could not find sweep"):
        wandb.Api().sweep(path)
    agent = wandb_cli("agent", path)
    assert agent.returncode != 0
    assert "not found" in agent.stderr


@pytest.mark.slow
def test_agent_survives_faults(wandb_server: WandbServer, wandb_cli: Callable[..., Any], study: Path) -> None:
    plan: list[tuple[str, Kind]] = [
        ("UpsertSweep", 429),
        ("SweepWithRuns", 503),
        ("CreateAgent", "drop"),
        ("Heartbeat", 502),
        ("Heartbeat", "slow"),
        ("UpsertBucket", "drop_after"),
        ("file_stream", "drop_after"),
    ]
    for operation, kind in plan:
        wandb_server.faults.add(operation, kind, seconds=0)
    agent = wandb_cli("agent", register_sweep())
    assert agent.returncode == 0, agent.stderr
    assert wandb_server.faults.pending() == []
    assert [(run.values["batch_size"], run.state, len(run.history)) for run in wandb_server.runs] == [
        (8, "finished", 10)
    ]


# ---- runs


def write_run(name: str = "r1", values: tuple[float, ...] = (3.0, 2.0, 1.0), **options: Any) -> None:
    with wandb.init(entity=ENTITY, project=PROJECT, id=name, settings=settings(), **options) as run:
        for value in values:
            run.log({"loss": value})


def test_nan_and_infinities_survive(wandb_server: WandbServer, tmp_path: Path) -> None:
    write_run(values=(1.0, math.nan, math.inf, -math.inf))
    stored = wandb_server.run(f"{ENTITY}/{PROJECT}/r1")
    assert [row["loss"] for row in stored.history.rows()] == [1.0, "NaN", "Infinity", "-Infinity"]
    run = wandb.Api().run(stored.path)
    exported = run.download_history_exports(str(tmp_path / "exports"), require_complete_history=True)
    column = pq.read_table(exported.paths[0]).column("loss").to_pylist()
    scanned = [row["loss"] for row in run.scan_history(keys=["loss"], use_cache=False)]
    stored.exports = Exports(available=False)
    live = [float(row["loss"]) for row in run.scan_history(keys=["loss"], use_cache=False)]
    for values in (column, scanned, live):
        assert [str(value) for value in values] in (
            ["1", "nan", "inf", "-inf"],
            ["1.0", "nan", "inf", "-inf"],
        )


def test_resume_appends(wandb_server: WandbServer) -> None:
    write_run()
    write_run(resume="must")
    run = wandb_server.run(f"{ENTITY}/{PROJECT}/r1")
    assert [row["_step"] for row in run.history.rows()] == list(range(6))
    with pytest.raises(Exception, match="does not exist"):
        write_run("unknown", resume="must")


def test_offline_run_is_synced(
    wandb_server: WandbServer, wandb_cli: Callable[..., Any], tmp_path: Path
) -> None:
    write_run(mode="offline", dir=str(tmp_path))
    assert wandb_server.runs == []
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert wandb_cli("sync", str(folder)).returncode == 0
    assert [(run.state, len(run.history)) for run in wandb_server.runs] == [("finished", 3)]


def test_wrong_key(wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "1" * 40)
    with pytest.raises(Exception, match="not logged in"):
        list(wandb.Api().runs(f"{ENTITY}/{PROJECT}"))
    with pytest.raises(Exception, match="not logged in"):
        write_run()
    assert {entry.status for entry in wandb_server.operations.all()} == {401}


def test_pages_orders_and_filters(wandb_server: WandbServer) -> None:
    for number in range(7):
        config = {"lr": number / 10, "optim": {"name": "adam" if number % 2 else "sgd"}}
        wandb_server.add_run(
            ENTITY, PROJECT, f"r{number}", config=config, state="finished" if number else "running", created_at=number,
            tags=["odd"] if number % 2 else [], job_type="train", summary={"loss": -number},
        )  # fmt: skip
    api = wandb.Api()
    found = list(api.runs(f"{ENTITY}/{PROJECT}", order="-created_at", per_page=3, lazy=False))
    assert [run.id for run in found] == [f"r{number}" for number in range(6, -1, -1)]
    assert [run.config["lr"] for run in found][:2] == [0.6, 0.5]
    assert wandb_server.operations.counts()["Runs"] == 3
    assert wandb_server.operations.counts()["Run"] == 0
    for filters, names in (
        ({"config.lr": {"$gte": 0.45}}, "r5 r6"),
        ({"config.optim.value.name": "adam", "state": "finished"}, "r1 r3 r5"),
        ({"$and": [{"state": {"$in": ["running"]}}, {"jobType": "train"}]}, "r0"),
        ({"$or": [{"name": "r2"}, {"tags": {"$in": ["odd"]}}]}, "r1 r2 r3 r5"),
        ({"display_name": {"$regex": "^run-[12]$"}}, "r0 r1"),
        ({"summary_metrics.loss": {"$exists": True}, "config.lr": {"$lt": 0.05}}, "r0"),
        ({"config.absent": {"$exists": True}}, ""),
    ):
        assert " ".join(run.id for run in api.runs(f"{ENTITY}/{PROJECT}", filters=filters)) == names
    found[0].delete()
    assert len(wandb_server.runs) == 6


def test_unknown_names(wandb_server: WandbServer) -> None:
    wandb_server.add_run(ENTITY, PROJECT, "r1")
    api = wandb.Api()
    with pytest.raises(ValueError, match="Could not find project absent"):
        list(api.runs(f"{ENTITY}/absent"))
    for path in (f"{ENTITY}/{PROJECT}/absent", f"{ENTITY}/absent/r1"):
        with pytest.raises(Exception, match="Could not find run"):
            api.run(path)


def test_public_api_writes(wandb_server: WandbServer) -> None:
    stored = wandb_server.add_run(ENTITY, PROJECT, "r1", config={"lr": 0.1}, history=[{"loss": 1.0}])
    run = wandb.Api().run(stored.path)
    run.summary["fit/b_peak"] = 12.5
    run.summary.update()
    run.tags.append("published")
    run.config["steps"] = 10
    run.update()
    assert (stored.summary["fit/b_peak"], stored.tags, stored.values["steps"]) == (12.5, ["published"], 10)
    assert stored.state == "finished"  # an edit is not a restart


# ---- histories


@pytest.mark.parametrize("keys", [None, ["loss"]])
@pytest.mark.parametrize(
    "exports",
    [Exports(), Exports(available=False), Exports(live_tail=5), Exports(live_tail=5, part_rows=20)],
    ids=["exported", "live", "live tail", "several files"],
)
def test_scan_history(wandb_server: WandbServer, keys: list[str] | None, exports: Exports) -> None:
    wandb_server.store.exports = exports
    stored = wandb_server.add_run(ENTITY, PROJECT, "r1", history={"loss": [float(n) for n in range(50)]})
    scan = wandb.Api().run(stored.path).scan_history(keys=keys, use_cache=False, page_size=30, min_step=10)
    assert [row["loss"] for row in scan] == list(range(10, 50))


def test_export_follows_the_run(wandb_server: WandbServer, tmp_path: Path) -> None:
    stored = wandb_server.add_run(ENTITY, PROJECT, "r1", history={"loss": [2.0, None, 1.0]}, state="running")
    run = wandb.Api().run(stored.path)

    def download(name: str) -> tuple[list[Any], bool]:
        result = run.download_history_exports(str(tmp_path / name), require_complete_history=False)
        return [
            pq.read_table(path).column("loss").to_pylist() for path in result.paths
        ], result.contains_live_data

    assert download("running") == ([], True)
    wandb_server.set_state(stored, "finished")
    assert download("finished") == ([[2.0, None, 1.0]], False)
    stored.history.append([{"loss": math.nan}])
    ((*start, last),), _ = download("longer")
    assert start == [2.0, None, 1.0]
    assert math.isnan(last)


# ---- artifacts and reports


def test_table_and_artifact_go_up_and_down(wandb_server: WandbServer, tmp_path: Path) -> None:
    for version in (1, 2):
        with wandb.init(entity=ENTITY, project=PROJECT, id="fit", resume="allow", settings=settings()) as run:
            run.log({"table": wandb.Table(columns=["batch_size", "lr"], data=[[8, 0.1 * version]])})
            artifact = wandb.Artifact("fit", type="surge-fit", metadata={"version": version})
            with artifact.new_file("fit.json") as file:
                json.dump({"b_peak": version}, file)
            assert run.log_artifact(artifact).wait(timeout=30).version == f"v{version - 1}"
    api = wandb.Api()
    latest = api.artifact(f"{ENTITY}/{PROJECT}/fit:latest")
    folder = Path(latest.download(str(tmp_path / "down")))
    assert json.loads((folder / "fit.json").read_text()) == {"b_peak": 2}
    assert api.artifact(f"{ENTITY}/{PROJECT}/fit:v0").metadata == {"version": 1}
    names = [
        each.name
        for each in api.run(f"{ENTITY}/{PROJECT}/fit").logged_artifacts()
        if each.type == "surge-fit"
    ]
    assert names == ["fit:v0", "fit:v1"]
    assert any(name.startswith("media/table/") for name in wandb_server.files_of(wandb_server.runs[0]))


def test_report_is_saved_listed_and_loaded(wandb_server: WandbServer) -> None:
    reports = pytest.importorskip("wandb_workspaces.reports.v2")
    wandb_server.store.make_project(ENTITY, PROJECT)
    report = reports.Report(
        entity=ENTITY, project=PROJECT, title="first", blocks=[reports.H1("Recommendation")]
    )
    report.save()
    loaded = reports.Report.from_url(report.url)
    loaded.title = "second"
    loaded.save()
    assert [found.display_name for found in wandb.Api().reports(f"{ENTITY}/{PROJECT}")] == ["second"]


# ---- faults

KINDS: tuple[Kind, ...] = (429, 500, "drop", "drop_after", "slow")
WRITES = ["UpsertBucket", "file_stream", "PUT", "CreateRunFiles", "CreateArtifact", "CreateArtifactManifest"]
WRITES += ["CreateArtifactFiles", "CommitArtifact"]
READS = ["Runs", "Run", "RunHistoryKeys", "RunParquetHistory", "HistoryPage", "SampledHistoryPage", "GET"]

WRITE = """\
import wandb
settings = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off")
with wandb.init(entity="team", project="study", id="r1", config={"lr": 0.1}, settings=settings) as run:
    for step in range(20):
        run.log({"loss": float(step)}, step=step)
    artifact = wandb.Artifact("fit", type="surge-fit")
    with artifact.new_file("fit.json") as file:
        file.write("{}")
    run.log_artifact(artifact)
"""

READ = """\
import pyarrow.parquet as pq
import wandb
api = wandb.Api()
runs = {run.id: run for run in api.runs("team/study", lazy=False)}
assert sorted(runs) == ["done", "live"], runs
exported = api.run("team/study/done").download_history_exports("exports", require_complete_history=True)
assert pq.read_table(exported.paths[0]).column("loss").to_pylist() == list(range(20))
for keys in (["loss"], None):
    scan = runs["live"].scan_history(keys=keys, use_cache=False)
    assert [row["loss"] for row in scan] == list(range(20))
"""


def run_under_faults(
    script: str, operations: list[str], folder: Path, runs: dict[str, str]
) -> list[WandbServer]:
    """Run a script until every operation has met every kind of fault.

    That takes as many clients as there are kinds, each with its server and another kind at each operation. They run
    at the same time, since they mostly wait to try again. ``runs``: states by name of runs that are there before.
    """
    servers, clients = [], []
    for turn in range(len(KINDS)):
        server = WandbServer()
        for name, state in runs.items():
            server.add_run(
                ENTITY, PROJECT, name, history={"loss": [float(n) for n in range(20)]}, state=state
            )
        for place, operation in enumerate(operations):
            kind = KINDS[(place + turn) % len(KINDS)]
            server.faults.add(operation, kind, seconds=0 if kind == 429 else 0.2)
        (home := folder / str(turn)).mkdir()
        environment = child_environment(client_environment(server, home))
        command = [sys.executable, "-c", script]
        clients.append(
            subprocess.Popen(command, cwd=home, env=environment, stdout=PIPE, stderr=STDOUT, text=True)
        )
        servers.append(server)
    for client, server in zip(clients, servers, strict=True):
        output, _ = client.communicate(timeout=60)
        server.close()
        assert client.returncode == 0, output
        assert server.faults.pending() == []
    return servers


def test_writing_survives_every_fault_everywhere(wandb_server: WandbServer, tmp_path: Path) -> None:
    for server in run_under_faults(WRITE, WRITES, tmp_path, runs={}):
        (stored,) = server.runs
        assert [row["loss"] for row in stored.history.rows()] == list(range(20))
        assert (stored.state, stored.values, stored.summary["loss"]) == ("finished", {"lr": 0.1}, 19)
        assert [artifact.state for artifact in server.store.artifacts.values()] == ["COMMITTED"]


def test_reading_survives_every_fault_everywhere(wandb_server: WandbServer, tmp_path: Path) -> None:
    run_under_faults(READ, READS, tmp_path, runs={"done": "finished", "live": "running"})


def test_damaged_downloads(wandb_server: WandbServer, tmp_path: Path) -> None:
    stored = wandb_server.add_run(ENTITY, PROJECT, "r1", history={"loss": [1.0, 2.0]})
    run = wandb.Api().run(stored.path)
    wandb_server.faults.add("GET", "truncate")
    result = run.download_history_exports(str(tmp_path / "cut"), require_complete_history=True)
    assert (result.paths, len(result.errors)) == ([], 1)
    wandb_server.faults.add("GET", "corrupt")
    result = run.download_history_exports(str(tmp_path / "bad"), require_complete_history=True)
    with pytest.raises(pa.ArrowInvalid, match="magic bytes"):  # the client hands over what it got
        pq.read_table(result.paths[0])


def test_clock_skew_and_reset(wandb_server: WandbServer) -> None:
    wandb_server.store.clock_offset_s = 365 * 86400.0
    run = wandb_server.add_run(ENTITY, PROJECT, "r1")
    assert int(run.created_at[:4]) == time.gmtime().tm_year + 1
    wandb_server.reset()
    assert (wandb_server.runs, wandb_server.operations.all()) == ([], [])
    assert int(wandb_server.store.now()[:4]) == time.gmtime().tm_year
