"""The arrows between modules point one way, and importing the package stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import surge_sweeps

PACKAGE = Path(surge_sweeps.__file__).parent
BASE = {"collector", "counting", "errors", "extras", "files", "progress"}

#: box -> the other boxes of the package that it may import.
ALLOWED: dict[str, set[str]] = {
    "collector": set(),
    "counting": set(),
    "errors": set(),
    "extras": {"errors"},
    "files": {"errors"},
    "progress": set(),
    "axes": {"errors"},
    "rectangles": BASE | {"sweep"},
    "sweep": BASE | {"axes"},
    "point_columns": set(),
    "curves": BASE | {"point_columns"},
    "cache_shards": BASE,
    "curve_cache": BASE | {"cache_shards"},
    "theory": set(),
    "trackers": BASE | {"sweep", "curves", "point_columns", "curve_cache"},
    "training": BASE | {"sweep", "curves", "trackers"},
    "standing": BASE | {"sweep", "curves", "trackers"},
    "launch": BASE | {"sweep", "rectangles", "curves", "trackers", "training"},
    "simulate": BASE | {"curves", "theory"},
    "fitting": BASE | {"curves", "theory"},
    "schedule": BASE | {"theory", "fitting"},
    "branching": BASE | {"sweep", "training"},
    "demo": BASE | {"axes", "sweep", "training"},
    "report": BASE | {"curves", "theory", "fitting", "schedule", "trackers"},
}
ANYTHING = {"cli", "__init__"}

#: third-party package -> the boxes that may import it.
OWNERS = {
    "torch": {"training"},
    "PIL": {"training"},
    "huggingface_hub": {"training"},
    "transformers": {"training"},
    "tokenizers": {"training"},
    "pytorch_optimizer": {"training"},
    "sklearn": {"training"},
    "mlflow": {"trackers"},
    "google": {"trackers"},
    "tenacity": {"trackers"},
    "wandb_workspaces": {"trackers"},
    "wandb": {"trackers"},
    "plotly": {"report"},
    "matplotlib": {"report"},
    "typer": {"cli", "training"},
    "ray": {"launch"},
    "kubernetes": {"launch"},
}


def box_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_what_lies_upstream(path: Path) -> None:
    box = box_of(path)
    assert box in ALLOWED or box in ANYTHING, f"say in ALLOWED what {box} may import"
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "surge_sweeps":
            target = rest.split(".")[0]
            assert target != "cli" or box == "cli", f"{path} imports cli"
            assert box in ANYTHING or target == box or target in ALLOWED[box], f"{path} imports {name}"
        elif top in OWNERS:
            assert box in OWNERS[top], f"{path} imports {top}, which belongs to {OWNERS[top]}"


def test_every_module_that_is_imported_is_there() -> None:
    """Nothing else would tell of one that the wheel lacks, and that only a rare way through the program imports."""

    def is_there(module: str) -> bool:
        path = PACKAGE.parent / module.replace(".", "/")
        return path.with_name(f"{path.name}.py").exists() or (path / "__init__.py").exists()

    wanted = {
        name
        for path in MODULES
        for name in imports(path)
        if name.partition(".")[0] == "surge_sweeps" and "." in name
    }
    assert len(wanted) > 500
    assert [
        name for name in sorted(wanted) if not is_there(name) and not is_there(name.rpartition(".")[0])
    ] == []


def test_users_type_checkers_are_told_that_there_are_types() -> None:
    assert (PACKAGE / "py.typed").exists()


def test_theory_needs_numpy_and_scipy_alone() -> None:
    path = PACKAGE / "theory.py"
    third_party = {name.partition(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)
    assert third_party <= {"numpy", "scipy"}


def test_importing_the_package_loads_neither_torch_nor_a_tracker() -> None:
    heavy = {"torch", "mlflow", "wandb", "sklearn", "plotly"}
    code = f"import sys, surge_sweeps; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
