"""The README's file tree names every module, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"

pytestmark = pytest.mark.skipif(not README.exists(), reason="the README is not part of the wheel")


def test_the_file_tree_has_a_line_for_every_module() -> None:
    tree = README.read_text(encoding="utf-8").split("## File tree")[1]
    listed = set(re.findall(r"^ +(\w+\.py) ", tree, flags=re.MULTILINE))
    modules = {path.name for path in (ROOT / "surge_sweeps").rglob("*.py")} - {"__init__.py"}
    assert listed == modules


def test_every_relative_link_leads_to_a_file() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target
