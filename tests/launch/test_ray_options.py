"""What Ray cannot do is refused in a sentence, before anything is handed over; needs no cluster."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow_stores import MlflowServer, free_port

from surge_sweeps.errors import MissingExtraError, SurgeError
from surge_sweeps.launch.base import TaskState
from surge_sweeps.launch.folder import Launch, TaskEnd
from surge_sweeps.launch.plan import Plan, Resources, Task, new_launch_id
from surge_sweeps.launch.ray import RayLauncher, RayOptions, known
from surge_sweeps.launch.ray.board import Board, Job
from surge_sweeps.launch.ray.options import GIB, check_fits, task_options
from surge_sweeps.sweep import Sweep

SWEEP = Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), constants={"workload": "digits"})


class Listener:
    """What answers 401 to whoever asks, and keeps the tokens that it was sent."""

    def __init__(self) -> None:
        self.tokens: list[str | None] = []
        seen = self.tokens

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(self.headers["Authorization"])
                self.send_error(401)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def listener() -> Iterator[Listener]:
    found = Listener()
    threading.Thread(target=found.server.serve_forever, daemon=True).start()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """One that would run on the files of a folder; the environment knows no cluster."""
    for name in (
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_ADDRESS",
        "RAY_API_SERVER_ADDRESS",
    ):
        monkeypatch.delenv(name, raising=False)
    tasks = (Task("trial", 0, (SWEEP.trials()[0].trial_id,)),)
    plan = Plan(new_launch_id(), "p", "files", None, tmp_path, (SWEEP,), tasks, engine="ray")
    return Launch.create(plan)


@pytest.mark.parametrize(
    "address", ["ray://head:10001", "head:6379", "auto", "http://", "http://[head", "http://head:port"]
)
def test_an_address_that_is_not_a_dashboards_is_refused(address: str) -> None:
    with pytest.raises(SurgeError, match=r"not the address of a Ray dashboard.*http://HEAD:8265"):
        RayOptions(address=address)


@pytest.mark.parametrize(
    "address",
    [
        "http://me:hunter2@head:8265",
        "http://me:hunter2@head:80a",
        "http://[me:hunter2@head",
        "http://head:8265/?token=hunter2",
        "http://head:80a#hunter2",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(SurgeError, match="RAY_AUTH_TOKEN_PATH") as raised:
        RayOptions(address=address)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [
        {"max_retries": -2},
        {"local_cpus": 0},
        {"local_gpus": -1},
        {"address": "http://head:8265", "local_gpus": 1},
    ],
)
def test_numbers_that_cannot_be_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(SurgeError):
        RayOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("resources", "reason"),
    [
        (Resources(gpus_per_task=1.5), "1.5 GPUs, which Ray cannot give"),
        (Resources(gpus_per_task=1e-6), "which Ray cannot give"),
        (Resources(nodes=2), "2 nodes, and a Ray task has one"),
    ],
)
def test_what_no_ray_task_can_have_is_refused(resources: Resources, reason: str) -> None:
    with pytest.raises(SurgeError, match=reason):
        task_options(resources, 3)


@pytest.mark.parametrize(
    ("resources", "reason"),
    [
        (Resources(gpus_per_task=2), "2 GPUs, and no node of the Ray cluster has more than 1"),
        (Resources(cpus_per_task=64), "64 cores, and no node of the Ray cluster has more than 16"),
        (Resources(memory_gb=100), "100 GiB of memory, and no node of the Ray cluster has more than 8"),
        (Resources(gpus_per_task=1, cpus_per_task=16), "16 cores and 1 GPUs, and no node .* has all of it"),
    ],
)
def test_more_than_any_node_has_is_refused(resources: Resources, reason: str) -> None:
    nodes: list[dict[str, float]] = [
        {"CPU": 16, "memory": 8 * GIB},
        {"CPU": 4, "GPU": 1, "memory": 8 * GIB},
    ]
    with pytest.raises(SurgeError, match=reason):
        check_fits(task_options(resources, 3), nodes)
    check_fits(task_options(Resources(gpus_per_task=0.5, cpus_per_task=4), 3), nodes)


def recorded(launch: Launch, address: str) -> RayLauncher:
    """The engine of a launch whose folder names a cluster."""
    Board(launch).write_job(Job(address, f"surge-{launch.plan.launch_id}", is_own=False))
    return RayLauncher.of(launch)


def test_the_token_goes_to_no_address_that_only_a_folder_names(
    launch: Launch, tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hunter2")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    launcher = recorded(launch, listener.address)
    with pytest.raises(SurgeError, match=rf"asks for a token, .*export RAY_ADDRESS={listener.address}"):
        launcher.status(launch)
    assert listener.tokens == [None]
    # Not by a launch into the cluster of somebody else's folder, but by the user's word.
    with pytest.raises(SurgeError, match="asks for a token"):
        launcher.submit(launch)
    assert set(listener.tokens) == {None}
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        listener.tokens.clear()
        with monkeypatch.context() as named:
            named.setenv(name, f"{listener.address.upper()}/".replace("HTTP", "http"))
            with pytest.raises(SurgeError, match="refuses its token"):
                RayLauncher.of(launch).status(launch)
        assert listener.tokens == ["Bearer hunter2"]


def test_an_address_that_the_user_gave_is_known_afterwards(
    launch: Launch, tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hunter2")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for _ in range(2):
        known.note(listener.address)
    assert known.list_file().read_text() == f"{listener.address}\n"
    assert known.list_file().stat().st_mode & 0o777 == 0o600
    with pytest.raises(SurgeError, match="refuses its token"):
        recorded(launch, listener.address).status(launch)
    assert listener.tokens == ["Bearer hunter2"]
    assert not known.is_known("http://127.0.0.1:1")
    # A list that others may write to is nobody's word.
    known.list_file().chmod(0o666)
    with pytest.raises(SurgeError, match=r"may be written by others.*chmod 600"):
        RayLauncher.of(launch).status(launch)
    assert listener.tokens == ["Bearer hunter2"]


def test_what_files_say_of_a_failure_is_shown_without_control_characters(launch: Launch) -> None:
    launcher, board = recorded(launch, "http://127.0.0.1:1"), Board(launch)
    board.write_job(Job("http://127.0.0.1:1", "none", is_own=True))
    board.write_ended({0: TaskState("failed", "\x1b[31mno\x1b]0;title\x07 such\nfile\x00")})
    assert launcher.status(launch) == {0: TaskState("failed", "no such file")}
    board.write_ended({})
    TaskEnd(1, "\x1b[2Jlost").write(launch, 0)
    assert launcher.status(launch) == {0: TaskState("failed", "lost")}


def test_no_cluster_at_the_address_is_told_at_once(launch: Launch) -> None:
    launcher = RayLauncher(RayOptions(address=f"http://127.0.0.1:{free_port()}"))
    began_s = time.monotonic()
    with pytest.raises(SurgeError, match=r"no Ray cluster answers at .*Check the address"):
        launcher.submit(launch)
    assert time.monotonic() - began_s < 10
    # Nothing was handed over, and nothing says that it was.
    assert [state.state for state in launcher.status(launch).values()] == ["failed"]


def test_another_server_at_the_address_is_told(launch: Launch, shared_server: MlflowServer) -> None:
    with pytest.raises(SurgeError, match=r"the Ray cluster at .* refuses \(404\)"):
        RayLauncher(RayOptions(address=shared_server.uri)).submit(launch)


def test_an_unreadable_token_is_told(launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(SurgeError, match="the token of the Ray cluster cannot be read"):
        RayLauncher(RayOptions(address=f"http://127.0.0.1:{free_port()}")).submit(launch)


def test_without_ray_a_cluster_of_our_own_is_refused_with_the_pip_line(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'surge-sweeps\[ray\]'"):
        RayLauncher().submit(launch)


def test_what_is_shown_is_what_is_handed_over(launch: Launch) -> None:
    text = RayLauncher(RayOptions(address="http://head:8265", max_retries=7)).describe(launch)
    for part in (
        "cluster: http://head:8265",
        f"submission_id: surge-{launch.plan.launch_id}",
        f"surge_sweeps.launch.ray.driver {launch.folder}",
        "max_retries: 7",
        "num_cpus: 1",
        "0: lr=0.1 batch=8 seed=0",
    ):
        assert part in text
