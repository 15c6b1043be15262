"""What is shown of long work where there is no terminal."""

from __future__ import annotations

import pytest

from surge_sweeps.cli import console


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
