"""Real `wandb agent` processes against the test server: every trial ends once, whatever is killed in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner
from wandb_server import WandbServer
from wandb_server.clients import child_environment

from surge_sweeps.cli.sweep import app
from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.launch import agent_crew, agent_processes, agents, claims
from surge_sweeps.launch.agents import AgentLauncher
from surge_sweeps.launch.base import Interrupted, LaunchResult
from surge_sweeps.launch.stop import StopRequest
from surge_sweeps.progress import no_progress
from surge_sweeps.sweep import SCRIPT_COMMAND, Sweep, Trial
from surge_sweeps.trackers.wandb.client import WandbProject, connect
from surge_sweeps.trackers.wandb.sweeps import list_sweeps, register

WandbCli = Callable[..., "subprocess.CompletedProcess[str]"]

PROJECT = WandbProject("test-entity", "study")
SWEEP = Sweep(
    lr=(0.1, 0.3),
    batch_size=(8, 32),
    seed=(0,),
    command=SCRIPT_COMMAND,
    program="train.py",
    name="study",
    loss="val/loss",
)
SMALL = replace(SWEEP, batch_size=(8,))
#: A user's script: it knows nothing of this tool. Files of the names `fail` and `wait` in its folder steer it.
SCRIPT = """
import argparse, math, os, sys, time
parser = argparse.ArgumentParser()
for name, kind in (("lr", float), ("batch_size", int), ("seed", int)):
    parser.add_argument(f"--{name}", type=kind)
args = parser.parse_args()
if os.path.exists("fail"):
    sys.exit("no such luck")
import wandb
run = wandb.init(resume="allow", settings=wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off"))
with open("started", "a") as file:
    file.write(f"{os.getpid()}\\n")
while os.path.exists("wait"):
    time.sleep(0.05)
for step in range(1, 4):
    run.log({"val/loss": math.nan if args.lr > 0.8 and step > 1 else 1 / (step * args.lr)}, step=step)
if args.lr > 0.8:
    run.finish(exit_code=1)
    sys.exit(1)
"""
#: `surge-sweep` with agents that ask for work every 0.2 s.
COMMAND = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the suite itself may run under nohup, which a launch respects
from surge_sweeps.launch import agent_crew, agent_processes, claims
claims.SETTLE_SECONDS = float(os.environ.get("SETTLE_SECONDS", "0.1"))
agent_processes.AGENT_COMMAND = (sys.executable, "-m", "wandb_server.fast_agent")
agent_processes.TERM_TIMEOUT_SECONDS = 5.0
agent_crew.SERVER_POLL_SECONDS = 0.5
from surge_sweeps.cli.entry import sweep_main
sweep_main()
"""


@pytest.fixture
def folder(wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the script and the sweep; agents ask for work every 0.2 s, and waits are short."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SCRIPT)
    SMALL.write(tmp_path / "small.yaml")
    for name, value in child_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(agent_processes, "AGENT_COMMAND", (sys.executable, "-m", "wandb_server.fast_agent"))
    monkeypatch.setattr(agent_processes, "TERM_TIMEOUT_SECONDS", 5.0)
    monkeypatch.setattr(agent_crew, "SERVER_POLL_SECONDS", 0.5)
    monkeypatch.setattr(claims, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(agents, "HEARTBEAT_WAIT_SECONDS", 0.5)
    return tmp_path


@pytest.fixture
def command(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`surge-sweep` in a session of its own."""
    started: list[subprocess.Popen[str]] = []
    # What users see: without this, W&B's client is silent in any case.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SILENT"}

    def start(*arguments: str, cwd: Path = folder, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=cwd,
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def launch(*sweeps: Sweep, agents: int = 1) -> LaunchResult:
    return AgentLauncher(PROJECT, agents).launch(sweeps, no_progress)


def cells(server: WandbServer, *states: str) -> list[tuple[float, int, int]]:
    """Learning rate, batch size and seed of every run on the server, as it was told them."""
    return sorted(
        (run.values["lr"], run.values["batch_size"], run.values["seed"])
        for run in server.runs
        if not states or run.state in states
    )


def grid(sweep: Sweep) -> list[tuple[float, int, int]]:
    return sorted((trial.lr, trial.batch_size, trial.seed) for trial in sweep.trials())


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def scripts(folder: Path) -> list[int]:
    """Process ids of the scripts that began, oldest first."""
    started = folder / "started"
    return [int(line) for line in started.read_text().split()] if started.exists() else []


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def children(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in text.split()]


def test_two_agents_share_a_grid_and_a_second_launch_registers_nothing(
    folder: Path, wandb_server: WandbServer
) -> None:
    for operation, kind in (("Heartbeat", "drop"), ("Runs", 500)):
        wandb_server.faults.add(operation, kind)
    result = launch(SWEEP, agents=2)
    assert (result.planned, result.ended, result.missing) == (4, Counter(finished=4), 0), result.failures
    assert cells(wandb_server, "finished") == grid(SWEEP)
    by_agent = [agent.total_runs for agent in wandb_server.store.agents.values()]
    assert len(by_agent) == 2
    assert sum(by_agent) == 4
    again = launch(SWEEP)
    assert (again.already_done, again.missing) == (4, 0)
    assert len(wandb_server.sweeps) == 1


def test_scripts_that_fail_as_they_diverge_give_results_and_agents_are_replaced_after_their_share(
    folder: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_processes, "RUNS_PER_AGENT", 1)
    monkeypatch.setattr(agent_crew, "RUNS_PER_AGENT", 1)
    # The answer is lost, so W&B's client registers the sweep again: the first one must stay idle.
    wandb_server.faults.add("UpsertSweep", "drop_after")
    sweep = replace(SWEEP, lr=(0.1, 0.9), batch_size=(8,))
    result = launch(sweep)
    assert (result.ended, result.missing) == (Counter(finished=1, diverged=1), 0), result.failures
    assert [run.state for run in wandb_server.runs].count("failed") == 1
    assert cells(wandb_server) == grid(sweep)
    assert len(wandb_server.store.agents) == 2
    assert launch(sweep).already_done == 2


def test_a_stopped_launch_leaves_nothing_behind_and_the_next_one_finishes(
    folder: Path, wandb_server: WandbServer, command: Callable[..., subprocess.Popen[str]]
) -> None:
    (folder / "wait").touch()
    process = command("launch", "small.yaml", "--tracker=wandb", "--project=test-entity/study")
    wait_for(lambda: scripts(folder) or process.poll() is not None)
    # What closing the terminal sends.
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Call the same command again" in output
    assert "Traceback" not in output
    assert "error" not in output
    assert not any(is_alive(pid) for pid in scripts(folder))
    assert "stopped. 2 trials: 1 shown as running, 1 missing" in output
    (folder / "wait").unlink()
    # The script died of the signal and said nothing: W&B finds out minutes later, and until then it may be alive.
    again = launch(SMALL)
    assert (again.ended, len(again.running)) == (Counter(finished=1), 1)
    wandb_server.crash_active_runs()
    assert launch(SMALL).ended == Counter(finished=1)
    assert cells(wandb_server, "finished") == grid(SMALL)
    assert len(wandb_server.sweeps) == 2


def test_a_killed_agent_is_told_and_a_follow_up_finishes_the_sweep(
    folder: Path,
    wandb_server: WandbServer,
    wandb_cli: WandbCli,
    command: Callable[..., subprocess.Popen[str]],
) -> None:
    (folder / "wait").touch()
    options = ("small.yaml", "--tracker=wandb", "--project=test-entity/study")
    process = command("launch", *options)
    wait_for(lambda: scripts(folder) or process.poll() is not None)
    (orphan,) = scripts(folder)
    os.kill(os.getsid(orphan), signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert "2 trials: 1 shown as running, 1 missing" in output
    assert "1 trial: an agent was killed by SIGKILL, see" in output
    assert is_alive(orphan)

    (folder / "wait").unlink()
    wait_for(lambda: not is_alive(orphan))
    wait_for(lambda: cells(wandb_server, "finished"))
    told = command("missing", *options, "-o", "rest.yaml", "--json")
    output, _ = told.communicate(timeout=60)
    found = json.loads(output)
    assert [(sweep["planned"], sweep["finished"], sweep["missing"]) for sweep in found["sweeps"]] == [
        (2, 1, 1)
    ]
    assert found["written"] == ["rest.yaml"]
    registered = wandb_cli("sweep", "rest.yaml")
    assert wandb_cli("agent", registered.stderr.rpartition("wandb agent ")[2].strip()).returncode == 0
    assert cells(wandb_server) == grid(SMALL)
    assert launch(SMALL).already_done == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends agents with a launcher that was killed")
def test_a_launch_that_is_killed_takes_its_agents_along_and_the_next_one_joins_its_sweep(
    folder: Path, wandb_server: WandbServer, command: Callable[..., subprocess.Popen[str]]
) -> None:
    (folder / "wait").touch()
    process = command("launch", "small.yaml", "--tracker=wandb", "--project=test-entity/study")
    wait_for(lambda: scripts(folder) or process.poll() is not None)
    process.kill()
    process.communicate()
    (script,) = scripts(folder)
    agent = os.getsid(script) if is_alive(script) else 0
    wait_for(lambda: not is_alive(script) and not is_alive(agent), 20)
    (folder / "wait").unlink()
    # The run was cut off, which W&B finds out minutes later; its cell is handed out no more.
    wandb_server.crash_active_runs()
    assert launch(SMALL).ended == Counter(finished=2)
    assert cells(wandb_server, "finished") == grid(SMALL)
    assert len(wandb_server.sweeps) == 2


def test_an_unfinished_sweep_is_joined_a_paused_one_is_not_and_trials_that_run_are_left_alone(
    folder: Path, wandb_server: WandbServer
) -> None:
    name = register(PROJECT, SMALL)
    wandb_server.sweeps[0].state = "PAUSED"
    with pytest.raises(SurgeError, match=rf"paused.*wandb sweep --resume test-entity/study/{name}"):
        launch(SMALL)
    wandb_server.sweeps[0].state = "RUNNING"
    elsewhere = replace(SWEEP, batch_size=(32,), lr=(0.1,))
    wandb_server.add_run(
        "test-entity", "study", "other", config=elsewhere.trials()[0].parameters, state="running",
        sweep=register(PROJECT, elsewhere),
    )  # fmt: skip
    result = launch(SMALL, elsewhere)
    assert (result.ended, len(result.running), result.missing) == (Counter(finished=2), 1, 0)
    assert cells(wandb_server, "finished") == grid(SMALL)
    assert len(wandb_server.sweeps) == 2


def test_a_preempted_run_is_gone_on_with(folder: Path, wandb_server: WandbServer) -> None:
    sweep = replace(SWEEP, batch_size=(8,), lr=(0.1,))
    name = register(PROJECT, sweep)
    config = {axis: sweep.trials()[0].parameters[axis] for axis in ("lr", "batch_size", "seed")}
    registered = wandb_server.sweeps[0]
    next(registered.points)
    registered.state = "RUNNING"
    registered.arguments["begun"] = {axis: {"value": value} for axis, value in config.items()}
    registered.requeued.append("begun")
    wandb_server.add_run("test-entity", "study", "begun", config=config, state="preempted", sweep=name)
    assert launch(sweep).ended == Counter(finished=1)
    assert [(run.name, run.state) for run in wandb_server.runs] == [("begun", "finished")]


def test_a_script_that_can_never_work_does_not_burn_the_grid(folder: Path, wandb_server: WandbServer) -> None:
    (folder / "fail").touch()
    sweep = replace(SWEEP, seed=tuple(range(100)))
    with pytest.raises(SurgeError, match=r"the first \d+ runs all failed: no such luck.*Mend the script"):
        launch(sweep)
    (agent,) = wandb_server.store.agents.values()
    assert agent.total_runs < 30


def test_a_script_that_logs_another_metric_is_told_so(
    folder: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_crew, "MAX_FIRST_FAILURES", 1)
    sweep = replace(SWEEP, loss="val_loss")
    with pytest.raises(SurgeError, match=r"they logged no 'val_loss', only: val/loss"):
        launch(sweep)


def test_a_sweep_deleted_meanwhile_is_told(
    folder: Path, wandb_server: WandbServer, command: Callable[..., subprocess.Popen[str]]
) -> None:
    (folder / "wait").touch()
    process = command("launch", "small.yaml", "--tracker=wandb", "--project=test-entity/study")
    wait_for(lambda: scripts(folder) or process.poll() is not None)
    wandb_server.delete_sweep(wandb_server.sweeps[0].name)
    (folder / "wait").unlink()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    # The run that finished counts though nothing but its configuration tells its trial any more.
    assert "2 trials: 1 finished, 1 missing" in output
    assert "was deleted on W&B" in output
    assert launch(SMALL).already_done == 1
    assert cells(wandb_server) == grid(SMALL)


def test_two_launches_at_the_same_moment_share_one_sweep(
    folder: Path, wandb_server: WandbServer, command: Callable[..., subprocess.Popen[str]]
) -> None:
    other = folder / "other"
    other.mkdir()
    for name in ("train.py", "small.yaml"):
        (other / name).write_text((folder / name).read_text())
    # Both have looked for sweeps before either has registered one.
    wandb_server.faults.add("UpsertSweep", "slow", times=2, seconds=2.5)
    arguments = ("launch", "small.yaml", "--tracker=wandb", "--project=test-entity/study")
    both = [command(*arguments, cwd=cwd, SETTLE_SECONDS="2") for cwd in (folder, other)]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert cells(wandb_server) == grid(SMALL), outputs
    first, second = sorted(wandb_server.sweeps, key=lambda sweep: (sweep.created_at, sweep.name))
    assert [len(wandb_server.store.runs_of_sweep(sweep)) for sweep in (first, second)] == [2, 0]
    assert (first.state, second.state) == ("FINISHED", "FINISHED")
    text = "".join(outputs)
    assert text.count("\nJoined sweep: test-entity/study/") == 1
    assert f"\nSweep: {first.path} ({wandb_server.url}/test-entity/study/sweeps/{first.name})\n" in text
    assert text.count("\nSweep: ") == 1
    assert text.count("\nOther machines may help: wandb agent --forward-signals test-entity/study/") == 2
    assert "Loaded credentials" not in text
    assert "agents: 100%" in text


def test_a_cell_that_an_agent_elsewhere_may_hold_is_left_to_it(
    folder: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(PROJECT, SMALL)
    next(wandb_server.sweeps[0].points)
    beats = iter(range(100))
    monkeypatch.setattr(agents, "agent_heartbeats", lambda *asked: {"elsewhere": str(next(beats))})
    result = launch(SMALL)
    assert (result.ended, result.missing) == (Counter(finished=1), 1)
    assert list(result.failures.values()) == ["agents elsewhere still work on its sweep"]


def test_a_cell_that_no_agent_holds_is_done_in_the_same_call(folder: Path, wandb_server: WandbServer) -> None:
    register(PROJECT, SMALL)
    # As after a Ctrl-C between an agent's being told of a cell and its script's first word.
    next(wandb_server.sweeps[0].points)
    result = launch(SMALL)
    assert (result.ended, result.missing) == (Counter(finished=2), 0), result.failures
    assert cells(wandb_server) == grid(SMALL)
    assert len(wandb_server.sweeps) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="finds the client's process in /proc")
def test_a_signal_that_ends_the_clients_own_process_too_is_one_sentence(
    folder: Path, wandb_server: WandbServer, command: Callable[..., subprocess.Popen[str]]
) -> None:
    (folder / "wait").touch()
    process = command("launch", "small.yaml", "--tracker=wandb", "--project=test-entity/study")
    wait_for(lambda: scripts(folder) or process.poll() is not None)
    for pid in children(process.pid):
        if "wandb-core" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGTERM)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "stopped. What was done cannot be told" in output
    assert "Traceback" not in output
    assert not any(is_alive(pid) for pid in scripts(folder))


def test_no_key_and_no_server_are_one_sentence_each(
    folder: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(TrackerError, match="wandb login"):
        launch(SWEEP)
    monkeypatch.setenv("WANDB_API_KEY", wandb_server.api_key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(TrackerError, match=r"127\.0\.0\.1:9"):
        launch(SWEEP)
    assert not wandb_server.sweeps


def test_what_cannot_run_is_refused_before_anything_is_registered(
    folder: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SurgeError, match=r"'none.py', which is not there"):
        launch(replace(SWEEP, program="none.py"))
    monkeypatch.setattr(sys, "executable", str(folder / "bin" / "python3"))
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(SurgeError, match="there is no `python` here"):
        launch(SWEEP)
    with pytest.raises(SurgeError, match="1 or more"):
        AgentLauncher(PROJECT, 0)
    assert not list_sweeps(connect(), PROJECT)


def test_a_stop_asked_for_while_data_are_made_registers_and_freezes_nothing(
    folder: Path, wandb_server: WandbServer
) -> None:
    def interrupted(_sweep: Sweep, _trials: Sequence[Trial], _stop: StopRequest) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    frozen: list[str] = []
    launcher = AgentLauncher(PROJECT, 1, check=interrupted, on_checked=lambda: frozen.append("frozen"))
    with pytest.raises(Interrupted):
        launcher.launch([SWEEP], no_progress)
    assert not frozen
    assert not list_sweeps(connect(), PROJECT)


@pytest.mark.slow
def test_a_built_in_trial_that_is_stopped_is_gone_on_with_as_the_same_run(
    folder: Path, wandb_server: WandbServer, command: Callable[..., subprocess.Popen[str]]
) -> None:
    constants = {"workload": "digits", "model": "mlp", "optimizer": "adamw", "max_steps": 1500}
    Sweep(lr=(0.001,), batch_size=(8,), seed=(0,), constants=constants).write(folder / "digits.yaml")
    arguments = ("launch", "digits.yaml", "--tracker=wandb", "--project=study")
    process = command(*arguments)
    wait_for(lambda: wandb_server.runs or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert [run.state for run in wandb_server.runs] == ["preempted"]
    again = command(*arguments)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    assert "Next: surge-report test-entity/study" in output
    (run,) = wandb_server.runs
    assert (run.state, run.history.last_step) == ("finished", 1500)


@pytest.mark.slow
def test_packed_trials_are_runs_without_a_sweep(
    folder: Path, wandb_server: WandbServer, command: Callable[..., subprocess.Popen[str]]
) -> None:
    constants = {"workload": "digits", "model": "mlp", "optimizer": "adamw", "max_steps": 5}
    sweep = Sweep(lr=(0.001, 0.01), batch_size=(8,), seed=(0,), constants=constants)
    sweep.write(folder / "digits.yaml")
    process = command("launch", "digits.yaml", "--tracker=wandb", "--packed", "--agents=1", "--project=study")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert cells(wandb_server, "finished") == grid(sweep)
    assert not wandb_server.sweeps
    # Agents find nothing left to do.
    assert launch(sweep).already_done == 2


def test_options_that_contradict_each_other_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*options: str) -> BaseException | None:
        return CliRunner().invoke(app, ["launch", "small.yaml", *options]).exception

    told = str(call("--tracker=wandb", "--packed"))
    assert "runs a script of your own" in told
    assert "--uri names an MLflow store" in str(call("--tracker=wandb", "--uri=sqlite:///x.db"))
    assert isinstance(call("--packed"), SystemExit)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "W&B is set to offline" in str(call("--tracker=wandb"))
