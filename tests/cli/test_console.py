"""What the terminal is shown: long work without one, names as they stand, and a reader that goes away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from surge_sweeps.cli import console
from surge_sweeps.errors import SurgeError


@pytest.mark.parametrize(
    ("quiet", "lines", "shown"),
    [
        (False, True, ["agents: 25%, 1 running", "agents: 100%, done", "agents: 100%, done"]),
        (False, False, []),
        (True, True, []),
    ],
)
def test_a_log_gets_a_line_now_and_then_and_one_in_the_end(
    quiet: bool,
    lines: bool,
    shown: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    with console.progress_bar("agents", quiet=quiet, lines=lines) as progress:
        progress(1, 4, "1 running")
        progress(4, 4, "done")
    assert capsys.readouterr().err.splitlines() == shown


def test_names_between_colons_are_no_emoji(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "err", console.TextConsole(stderr=True, force_terminal=True))
    name = ":smile: [bold] :x:"
    console.say(name)
    with pytest.raises(SystemExit):
        console.run(lambda: (_ for _ in ()).throw(SurgeError(name, name)))
    with console.progress_bar(name, quiet=False) as progress:
        progress(1, 4, name)
    shown = capsys.readouterr().err
    assert shown.count(name) >= 5
    assert "\N{SMILING FACE WITH OPEN MOUTH AND SMILING EYES}" not in shown


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_pipe_stops_no_work(tmp_path: Path, stream: str) -> None:
    done = tmp_path / "done"
    program = (
        "from pathlib import Path; from surge_sweeps.cli import console\n"
        "def work():\n"
        "    for line in range(9): console.out.print(line); console.say(str(line))\n"
        f"    Path({str(done)!r}).touch()\n"
        "console.run(work)"
    )
    read, write = os.pipe()
    os.close(read)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: write}
    try:
        ended = subprocess.run([sys.executable, "-c", program], **pipes, text=True, timeout=60)  # type: ignore[call-overload]
    finally:
        os.close(write)
    assert ended.returncode == 0
    assert done.exists()
    other = ended.stderr if stream == "stdout" else ended.stdout
    assert other.split() == list("012345678")
