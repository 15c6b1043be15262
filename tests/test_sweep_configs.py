"""The sweep files that ship: each is read back as the grid it should be, and the demo's are the demo's."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from surge_sweeps.demo import scratch_sweeps
from surge_sweeps.sweep import TOP_LEVEL_KEYS, Sweep

FOLDER = Path(__file__).parent.parent / "sweep_configs"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_a_grid_that_an_agent_can_run(path: Path) -> None:
    sweep = Sweep.read(path)
    assert sweep.cost_examples() is not None
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(raw) <= set(TOP_LEVEL_KEYS)
    assert all(isinstance(value, float) for value in raw["parameters"]["lr"]["values"])


def test_the_digits_sweep_has_the_axes_it_promises() -> None:
    sweep = Sweep.read(FOLDER / "digits.yaml")
    assert len(sweep.lr) >= 4
    assert len(sweep.batch_size) >= 3
    assert len(sweep.seed) >= 1


def test_the_demo_runs_the_shipped_sweeps() -> None:
    shipped = {Sweep.read(path).sweep_id for path in FILES}
    assert {sweep.sweep_id for sweep in scratch_sweeps()} <= shipped
