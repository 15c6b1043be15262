"""What is handed to SLURM, what it refuses, and what it remembers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from launch.launcher_contract import HOSTILE, is_alive
from slurm_cluster import SlurmCluster, slurm_missing

from surge_sweeps.errors import SurgeError
from surge_sweeps.files import write_text
from surge_sweeps.launch.base import IN_FLIGHT
from surge_sweeps.launch.folder import Launch, TaskEnd
from surge_sweeps.launch.plan import Plan, Resources, Task, new_launch_id
from surge_sweeps.launch.slurm import SlurmLauncher, SlurmOptions, launcher, submission
from surge_sweeps.sweep import Sweep

#: Prints its arguments and ends, in place of a Python that would take a second to start.
ECHO = SlurmOptions(python="/bin/echo")


def make_launch(folder: Path, tasks: int = 2, **resources: float) -> Launch:
    sweep = Sweep(lr=tuple(0.001 * (number + 1) for number in range(tasks)), batch_size=(8,), seed=(0,))
    single = tuple(Task("trial", 0, (trial.trial_id,)) for trial in sweep.trials())
    plan = Plan(
        new_launch_id(),
        "project",
        "mlflow",
        None,
        folder,
        (sweep,),
        single,
        Resources(**resources),  # type: ignore[arg-type]
    )
    return Launch.create(plan)


def wait_until_ended(slurm_launcher: SlurmLauncher, launch: Launch) -> dict[int, str]:
    wait_for(lambda: all(state.state not in IN_FLIGHT for state in slurm_launcher.status(launch).values()))
    return {task: state.why for task, state in slurm_launcher.status(launch).items()}


def wait_for(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shared folder here that shows a file late."""
    monkeypatch.setattr(launcher, "FILE_DELAY_SECONDS", 0.0)


def test_every_listener_is_on_loopback(slurm: SlurmCluster) -> None:
    listing = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    own = [line for line in listing.splitlines() if any(f"pid={pid}," in line for pid in slurm.pids.values())]
    assert len(own) == 3
    assert all(line.split()[3].startswith("127.0.0.1:") for line in own)


def test_two_clusters_at_a_time_know_nothing_of_each_other_and_leave_nothing(slurm: SlurmCluster) -> None:
    with SlurmCluster(nodes=1) as other:
        job = subprocess.run(
            ["sbatch", "--parsable", "--output=/dev/null", "--wrap=exec sleep 100"],
            env=os.environ | other.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        assert other.run("squeue", "--noheader", "--format=%i %P") == f"{job} low\n"
        assert slurm.run("squeue", "--noheader", "--format=%j", "--name=wrap").strip() == ""
        pids = list(other.pids.values())
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not other.folder.exists()


def read_by_a_shell(command: str) -> list[str]:
    """The arguments of a command, by a shell's word."""
    printed = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True
    )
    return printed.stdout.split("\0")[:-1]


def test_what_is_described_is_what_a_shell_would_submit(tmp_path: Path) -> None:
    folder = tmp_path / f"90% {HOSTILE}"
    launch = make_launch(folder, gpus_per_task=2, cpus_per_task=3, memory_gb=1.5, time_limit_minutes=60)
    options = SlurmOptions(
        partition="low", account="me;you", qos="q", constraint="[a|b]&c", reservation="r", gpu_type="h100",
        at_most=8, extra=("--exclusive", "--mail-type=END"),
    )  # fmt: skip
    command, script = SlurmLauncher(options).describe(launch).split("\n\n# ", 1)
    arguments = read_by_a_shell(command)
    assert arguments[:5] == [
        "sbatch", "--parsable", f"--job-name=surge-{launch.plan.launch_id}", "--array=0-1%8", f"--chdir={folder}",
    ]  # fmt: skip
    asked = {
        "--export=ALL", "--requeue", "--open-mode=append", "--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=3",
        "--mem=1536M", "--gres=gpu:h100:2", "--time=60", "--signal=B:USR2@120", "--partition=low",
        "--account=me;you", "--qos=q", "--constraint=[a|b]&c", "--reservation=r", "--exclusive", "--mail-type=END",
        f"--output={str(launch.folder).replace('%', '%%')}/logs/%a.log",
    }  # fmt: skip
    assert asked <= set(arguments)
    assert arguments[-2:] == ["-m", "surge_sweeps.launch.run_task"]
    path, text = script.split(":\n", 1)
    assert text == Path(path).read_text() == Path(arguments[-7]).read_text()


def test_a_container_is_run_by_pyxis_and_sees_the_working_folder(tmp_path: Path) -> None:
    options = SlurmOptions(container_image="nvcr.io#nvidia/pytorch:26.10-py3")
    text = SlurmLauncher(options).describe(make_launch(tmp_path))
    arguments = read_by_a_shell(text.split("\n\n# ", 1)[0])
    assert arguments[arguments.index("srun") :] == [
        "srun", "--ntasks=1", "--container-image=nvcr.io#nvidia/pytorch:26.10-py3",
        f"--container-mounts={tmp_path}:{tmp_path}", f"--container-workdir={tmp_path}",
        "python", "-m", "surge_sweeps.launch.run_task",
    ]  # fmt: skip
    with pytest.raises(SurgeError, match="without commas"):
        SlurmLauncher(options).describe(make_launch(tmp_path / "a,b"))
    with pytest.raises(SurgeError, match="several nodes"):
        SlurmLauncher(options).describe(make_launch(tmp_path / "c", nodes=2))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"gpus_per_task": 0.5}, "gpus_per_task is 0.5, and SLURM hands out whole ones. Ask for 1"),
        ({"gpus_per_task": 3, "nodes": 2}, "3, which 2 nodes cannot share evenly. Give a multiple of 2."),
        ({"time_limit_minutes": 2}, "time limit of 2 min .* lower signal_seconds_before_limit"),
    ],
)
def test_resources_that_slurm_cannot_give_are_refused_before_it_is_asked(
    tmp_path: Path, asked: dict[str, float], message: str
) -> None:
    with pytest.raises(SurgeError, match=message):
        SlurmLauncher().describe(make_launch(tmp_path, **asked))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra": ("#SBATCH --exclusive",)}, "is no option of sbatch"),
        ({"extra": ("--comment=a\n#SBATCH --wrap=evil",)}, "is no option of sbatch"),
        ({"extra": ("--no-requeue",)}, "the launch gives itself"),
        ({"extra": ("--outp=x",)}, "the launch gives itself"),
        ({"extra": ("--clusters=other",)}, r"another cluster, .*run again.*login node of that cluster"),
        ({"extra": ("--clust other",)}, "another cluster"),
        ({"extra": ("-M other",)}, "another cluster"),
        ({"extra": ("-Mother",)}, "another cluster"),
        ({"partition": "a\nb"}, "partition is"),
        ({"at_most": 0}, "It must be 1 or more"),
        ({"signal_seconds_before_limit": -1}, "0 to 65535"),
    ],
)
def test_options_that_cannot_be_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(SurgeError, match=message):
        SlurmOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "asked", "message"),
    [
        (SlurmOptions(partition="nope"), {}, "invalid partition .*sinfo -o '%P %a %l'"),
        (SlurmOptions(constraint="nope"), {}, "Invalid feature .*what a constraint may name"),
        (SlurmOptions(reservation="nope"), {}, "reservation is invalid"),
        (SlurmOptions(), {"gpus_per_task": 3}, "node configuration is not available.*Ask for less"),
        (SlurmOptions(), {"memory_gb": 10_000}, "Memory specification .*Ask for less"),
        (SlurmOptions(extra=("--nonsense",)), {}, "unrecognized option '--nonsense'"),
    ],
)
def test_what_slurm_refuses_is_told_and_leaves_nothing(
    slurm: SlurmCluster, tmp_path: Path, options: SlurmOptions, asked: dict[str, float], message: str
) -> None:
    launch = make_launch(tmp_path, **asked)
    with pytest.raises(SurgeError, match=f"^sbatch refused: .*{message}"):
        SlurmLauncher(options).submit(launch)
    # SLURM itself remembers some that it refused.
    assert set(slurm.states(f"surge-{launch.plan.launch_id}").values()) <= {"FAILED"}
    assert {state.state for state in SlurmLauncher().status(launch).values()} == {"failed"}


def test_no_slurm_no_controller_and_no_folder_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = make_launch(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for ask in (SlurmLauncher().submit, SlurmLauncher().status, SlurmLauncher().cancel):
        with pytest.raises(SurgeError, match=r"SLURM is not installed here: .*--on local"):
            ask(launch)
    # A plain file where the logs should be: root may write anywhere else.
    blocked = make_launch(tmp_path / "blocked")
    (blocked.folder / "logs").write_text("")
    with pytest.raises(SurgeError, match=r"cannot be written: .*that you may write to"):
        SlurmLauncher().submit(blocked)
    with pytest.raises(SurgeError, match="without backslashes"):
        SlurmLauncher().submit(make_launch(tmp_path / "a\\b"))


def test_a_controller_that_is_away_is_an_error_and_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why := slurm_missing():
        pytest.skip(why)
    with SlurmCluster(nodes=1) as own:
        for name, value in own.environment.items():
            monkeypatch.setenv(name, value)
        launch = make_launch(tmp_path)
        held = SlurmLauncher(replace(ECHO, extra=("--hold",)))
        held.submit(launch)
        own.stop_controller()
        with pytest.raises(SurgeError, match=r"^squeue refused: Unable to contact slurm controller"):
            held.status(launch)
        own.start_controller()
        assert {state.state for state in held.status(launch).values()} == {"waiting"}


@pytest.mark.usefixtures("quick")
def test_more_tasks_than_an_array_may_hold_are_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why := slurm_missing():
        pytest.skip(why)
    with SlurmCluster(nodes=1, largest_array=12) as own:
        for name, value in own.environment.items():
            monkeypatch.setenv(name, value)
        launch, engine = make_launch(tmp_path, tasks=14), SlurmLauncher(replace(ECHO, at_most=10))
        engine.submit(launch)
        rows = own.run("squeue", "--noheader", "--states=all", "--format=%j %K %E").splitlines()
        second = f"surge-{launch.plan.launch_id}-10"
        assert any(row.startswith(f"{second} 0-3%10 afterany:") for row in rows)
        assert len(wait_until_ended(engine, launch)) == 14
        for task in range(14):
            assert engine.logs(launch, task).strip().endswith(f"{launch.folder} {task}")
        again = make_launch(tmp_path, tasks=14)
        SlurmLauncher(replace(ECHO, extra=("--hold",))).submit(again)
        assert {state.state for state in engine.status(again).values()} == {"waiting"}
        engine.cancel(again, [3, 12])
        states = engine.status(again)
        assert [task for task, state in states.items() if state.state == "failed"] == [3, 12]
        assert {states[task].why for task in (3, 12)} == {"it was cancelled."}


@pytest.mark.usefixtures("quick")
def test_a_program_that_ends_without_a_word_has_failed(slurm: SlurmCluster, tmp_path: Path) -> None:
    launch, engine = make_launch(tmp_path, tasks=1), SlurmLauncher(ECHO)
    engine.submit(launch)
    assert "every node has to see the working folder" in wait_until_ended(engine, launch)[0]
    missing, engine = make_launch(tmp_path, tasks=1), SlurmLauncher(SlurmOptions(python="/no/python"))
    engine.submit(missing)
    assert re.search(r"could not start, .*exit code 127", wait_until_ended(engine, missing)[0])
    assert "/no/python" in engine.logs(missing, 0)


def test_a_word_may_be_seen_late(slurm: SlurmCluster, tmp_path: Path) -> None:
    launch, engine = make_launch(tmp_path, tasks=1), SlurmLauncher(ECHO)
    engine.submit(launch)
    name = f"surge-{launch.plan.launch_id}"
    wait_for(lambda: slurm.states(name) == {0: "COMPLETED"})
    assert engine.status(launch)[0].state == "running"
    TaskEnd(0).write(launch, 0)
    assert engine.status(launch)[0].state == "ended"


def test_the_environment_of_another_job_and_settings_of_sbatch_do_not_reach_the_tasks(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "123456")
    monkeypatch.setenv("SBATCH_ARRAY_INX", "0-7")
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    monkeypatch.setenv("SBATCH_NO_REQUEUE", "1")
    monkeypatch.setenv("SURGE_TEST_VALUE", "a b;c")
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho "$SURGE_TEST_VALUE|$SLURM_MEM_PER_NODE|$CUDA_VISIBLE_DEVICES"\n')
    program.chmod(0o755)
    launch, engine = (
        make_launch(tmp_path, tasks=1, gpus_per_task=1),
        SlurmLauncher(SlurmOptions(python=str(program))),
    )
    engine.submit(launch)
    name = f"surge-{launch.plan.launch_id}"
    wait_for(lambda: slurm.states(name) == {0: "COMPLETED"})
    assert engine.logs(launch, 0) in ("a b;c||0\n", "a b;c||1\n")
    job = slurm.run("squeue", "--noheader", "--states=all", f"--name={name}", "--format=%A").strip()
    assert "Requeue=1" in slurm.run("scontrol", "show", "job", job)


def test_a_hidden_partition_hides_no_task(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, engine = make_launch(tmp_path), SlurmLauncher(replace(ECHO, partition="low", extra=("--hold",)))
    engine.submit(launch)
    # From root nothing is hidden: let somebody else ask.
    squeue = stand_in(tmp_path, "squeue", 'exec setpriv --reuid=65534 --clear-groups REAL "$@"', monkeypatch)
    slurm.run("scontrol", "update", "partitionname=low", "hidden=yes")
    try:
        name = f"--name=surge-{launch.plan.launch_id}"
        asked = [str(squeue), "--noheader", name]
        assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout == ""
        assert {state.state for state in engine.status(launch).values()} == {"waiting"}
        engine.cancel(launch)
    finally:
        slurm.run("scontrol", "update", "partitionname=low", "hidden=no")


def stand_in(folder: Path, program: str, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of SLURM by another, found before it; REAL in its script is SLURM's own."""
    path = folder / "bin" / program
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script.replace('REAL', str(shutil.which(program)))}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


def test_the_silence_of_another_cluster_or_about_another_user_is_no_end(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, engine = make_launch(tmp_path), SlurmLauncher(replace(ECHO, extra=("--hold",)))
    engine.submit(launch)
    record = json.loads((launch.folder / "slurm.json").read_text())
    (job,) = record["jobs"]
    assert record == {"cluster": "surge", "user": os.getuid(), "jobs": {job: 0}}
    with SlurmCluster(nodes=1, name="elsewhere") as other:
        monkeypatch.setenv("SLURM_CONF", other.environment["SLURM_CONF"])
        for ask in (SlurmLauncher().status, SlurmLauncher().cancel):
            with pytest.raises(
                SurgeError, match=r"on the cluster 'surge', and .* is 'elsewhere'\. Ask on a login node"
            ):
                ask(launch)
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    # Known by its number alone, and by its name alone as after a kill before the number was written.
    slurm.run("scontrol", "update", f"jobid={job}", "name=renamed")
    assert {state.state for state in SlurmLauncher().status(launch).values()} == {"waiting"}
    slurm.run("scontrol", "update", f"jobid={job}", f"name=surge-{launch.plan.launch_id}")
    (launch.folder / "slurm.json").unlink()
    assert {state.state for state in SlurmLauncher().status(launch).values()} == {"waiting"}
    write_text(launch.folder / "slurm.json", json.dumps(record | {"user": 65534}))
    with pytest.raises(SurgeError, match=r"those of nobody, and SLURM is asked by root\. Let nobody ask\."):
        SlurmLauncher().status(launch)
    write_text(launch.folder / "slurm.json", "{")
    with pytest.raises(SurgeError, match="cannot be read"):
        SlurmLauncher().status(launch)
    (launch.folder / "slurm.json").unlink()
    engine.cancel(launch)


@pytest.mark.usefixtures("quick")
def test_a_task_of_a_launch_that_is_over_does_not_start(slurm: SlurmCluster, tmp_path: Path) -> None:
    launch, engine = make_launch(tmp_path, tasks=1), SlurmLauncher(replace(ECHO, extra=("--hold",)))
    engine.submit(launch)
    launch.set_over()
    (job,) = json.loads((launch.folder / "slurm.json").read_text())["jobs"]
    slurm.run("scontrol", "release", job)
    assert "exit code 1" in wait_until_ended(engine, launch)[0]
    # Nor did its program print its arguments.
    assert re.fullmatch(r"the launch is noted as over: task 0 does not start, .*\n", engine.logs(launch, 0))


def test_a_kill_while_sbatch_is_at_work_ends_it_too(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = make_launch(tmp_path)
    # A controller that is busy.
    stand_in(tmp_path, "sbatch", f'echo $$ > {tmp_path}/pid\nsleep 5\nexec REAL "$@"', monkeypatch)
    code = (
        "import sys; from pathlib import Path; from surge_sweeps.launch.folder import Launch\n"
        "from surge_sweeps.launch.slurm import SlurmLauncher\n"
        "SlurmLauncher().submit(Launch.read(Path(sys.argv[1])))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(launch.folder)])
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    process.kill()
    process.wait()
    wait_for(lambda: not is_alive(int((tmp_path / "pid").read_text())))
    assert slurm.states(f"surge-{launch.plan.launch_id}") == {}
    assert json.loads((launch.folder / "slurm.json").read_text())["jobs"] == {}
    assert {state.state for state in SlurmLauncher().status(launch).values()} == {"failed"}


@pytest.mark.usefixtures("quick")
def test_settings_for_other_clusters_and_for_other_eyes_change_nothing(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SBATCH_CLUSTERS", "SLURM_CLUSTERS", "SACCT_FEDERATION"):
        monkeypatch.setenv(name, "other")
    monkeypatch.setenv("SBATCH_WAIT", "1")
    for name in ("SQUEUE_PARTITION", "SQUEUE_NAMES", "SCANCEL_PARTITION", "SCANCEL_NAME"):
        monkeypatch.setenv(name, "high")
    launch, engine = make_launch(tmp_path), SlurmLauncher(replace(ECHO, extra=("--hold",)))
    began_s = time.monotonic()
    engine.submit(launch)
    # One that waits for the end of what is held waits for ever.
    assert time.monotonic() - began_s < 30
    assert {state.state for state in engine.status(launch).values()} == {"waiting"}
    engine.cancel(launch)
    assert set(wait_until_ended(engine, launch).values()) == {"it was cancelled."}


@pytest.mark.usefixtures("quick")
def test_the_script_needs_no_permission_to_be_run(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a wheel installs it: sbatch makes a copy of its own.
    copied = tmp_path / "element.sh"
    copied.write_text(submission.SCRIPT.read_text())
    copied.chmod(0o444)
    monkeypatch.setattr(submission, "SCRIPT", copied)
    launch, engine = make_launch(tmp_path, tasks=1), SlurmLauncher(ECHO)
    engine.submit(launch)
    wait_until_ended(engine, launch)
    assert engine.logs(launch, 0).endswith(f"-m surge_sweeps.launch.run_task {launch.folder} 0\n")


def test_what_files_say_of_a_failure_is_shown_without_control_characters(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    launch = make_launch(tmp_path, tasks=1)
    TaskEnd(1, "\x1b[31mno\x1b]0;title\x07 such\nfile\x00").write(launch, 0)
    assert SlurmLauncher().status(launch)[0].why == "no such file"


def test_accounts_tell_how_a_forgotten_job_ended(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No accounts are kept here: a stand-in with the answer of a cluster that keeps some.
    launch = make_launch(tmp_path, tasks=2)
    programs = tmp_path / "bin"
    programs.mkdir()
    name = f"surge-{launch.plan.launch_id}"
    (programs / "sacct").write_text(
        f"#!/bin/sh\necho '7_0|OUT_OF_MEMORY|0:125|{name}'\necho '7_1|NODE_FAIL|0:0|{name}'\n"
    )
    (programs / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    whys = [state.why for state in SlurmLauncher().status(launch).values()]
    assert "want of memory" in whys[0]
    assert "node went down" in whys[1]


def test_a_signal_before_the_program_listens_sends_the_element_back_unless_it_is_cancelled(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\ntouch "began-$SLURM_RESTART_COUNT"\nexec sleep 100\n')
    program.chmod(0o755)
    launch, engine = make_launch(tmp_path, tasks=1), SlurmLauncher(SlurmOptions(python=str(program)))
    engine.submit(launch)
    name = f"surge-{launch.plan.launch_id}"
    wait_for(lambda: (tmp_path / "began-").exists())
    (job,) = slurm.run("squeue", "--noheader", f"--name={name}", "--format=%F").split()
    slurm.run("scancel", "--signal=USR2", "--batch", f"{job}_0")
    wait_for(lambda: engine.status(launch)[0].state == "waiting")
    wait_for(lambda: (tmp_path / "began-1").exists())
    # As a cancel that comes between the element's decision to go back and its way there.
    write_text(launch.folder / "cancelled" / "0", "")
    slurm.run("scancel", "--signal=USR2", "--batch", f"{job}_0")
    assert wait_until_ended(engine, launch) == {0: "it was cancelled."}
