"""A store's password is nowhere in what a command prints, nor in the command line of what it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from mlflow_stores.postgres import PASSWORD

from surge_sweeps.sweep import SCRIPT_COMMAND, Sweep

#: A user's script that says what it was started with, and goes on long enough to be looked at.
SCRIPT = """
import time
import mlflow
with mlflow.start_run():
    mlflow.log_metric("eval/loss", 1.0, step=1)
    time.sleep(2)
"""


def sweeps(folder: Path) -> None:
    (folder / "train.py").write_text(SCRIPT)
    Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), command=SCRIPT_COMMAND, program="train.py").write(
        folder / "own.yaml"
    )
    Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), constants={"workload": "digits", "max_steps": 5}).write(
        folder / "builtin.yaml"
    )


def start(folder: Path, module: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MLFLOW_")}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment | {"HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def descendants(process: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = {int(child) for child in task.read_text().split()}
        except OSError:
            continue
        found |= children.union(*map(descendants, children))
    return found


def command_line(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def no_secret_in(text: str) -> bool:
    assert PASSWORD not in text
    assert quote(PASSWORD, safe="") not in text
    assert quote(PASSWORD) not in text
    return True


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks into /proc")
def test_a_launch_shows_the_password_of_its_store_to_nobody(tmp_path: Path, postgres_uri: str) -> None:
    sweeps(tmp_path)
    process = start(
        tmp_path,
        "surge_sweeps.cli",
        "launch",
        "builtin.yaml",
        "own.yaml",
        "--project=p",
        "--uri",
        postgres_uri,
    )
    seen: dict[int, str] = {}
    while process.poll() is None:
        seen |= {child: line for child in descendants(process.pid) if (line := command_line(child))}
        time.sleep(0.05)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert any("train.py" in line for line in seen.values())
    assert any("multiprocessing" in line for line in seen.values())
    assert no_secret_in("\n".join(seen.values()))
    address = urlsplit(postgres_uri)
    assert f"Next: surge-report p --uri {address.scheme}://127.0.0.1:{address.port}{address.path}" in output
    assert "shown without user, password" in output
    assert no_secret_in(output)
    assert all(no_secret_in(log.read_text()) for log in tmp_path.glob(".surge/**/*.log"))

    for module, *arguments in (
        ("surge_sweeps.cli", "missing", "own.yaml", "--project=p"),
        ("surge_sweeps.cli", "missing", "own.yaml", "--project=nothing"),
        ("surge_sweeps.cli", "doctor"),
        ("surge_sweeps.cli.report", "p", "--loss-column=nothing"),
        ("surge_sweeps.cli.report", "p"),
    ):
        command = start(tmp_path, module, *arguments, "--uri", postgres_uri)
        assert no_secret_in(command.communicate(timeout=240)[0])


#: The first two tell how stores are written and read.
ALL = (
    ("surge_sweeps.cli", "launch", "builtin.yaml"),
    ("surge_sweeps.cli.report", "p"),
    ("surge_sweeps.cli.report", "p", "--publish"),
    ("surge_sweeps.cli", "missing", "builtin.yaml"),
    ("surge_sweeps.cli", "doctor"),
    ("surge_sweeps.cli", "ui", "--port=0"),
)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["port", "user", "database", "driver"])
def test_an_error_shows_no_password(tmp_path: Path, postgres_uri: str, change: str) -> None:
    sweeps(tmp_path)
    port = str(urlsplit(postgres_uri).port)
    uri = {
        "port": postgres_uri.replace(f":{port}/", ":1/"),
        "user": postgres_uri.replace("//surge:", "//nobody:"),
        "database": f"{postgres_uri}-nothing",
        "driver": postgres_uri.replace("+psycopg", "+nothing"),
    }[change]
    commands = [
        start(tmp_path, module, *arguments, "--uri", uri)
        for module, *arguments in (ALL if change == "user" else ALL[:2])
    ]
    for command in commands:
        output = command.communicate(timeout=240)[0]
        assert command.returncode not in (0, None), output
        assert "Traceback" not in output
        # What is away from the start is an error at once.
        assert "trying again" not in output
        assert no_secret_in(output)
