"""Folders of runs, and child processes that write them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from forked_python import ForkedPython

from surge_sweeps.trackers.files.layout import RunsFolder
from surge_sweeps.trackers.files.scratch import Scratch
from surge_sweeps.trackers.files.writer import FilesTracker

CONFIG = {"lr": 0.1, "batch_size": 8, "seed": 0}
Start = Callable[..., ForkedPython]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs of mine"


@pytest.fixture
def store(folder: Path) -> FilesTracker:
    tracker = FilesTracker(folder)
    tracker.open_sweep("s1", "demo", {"method": "grid"})
    return tracker


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The empty store that programs get a copy of: MLflow takes seconds to make one."""
    pytest.importorskip("mlflow")
    made = RunsFolder(tmp_path_factory.mktemp("template"))
    made.prepare()
    Scratch(made, "trial-000000000000").prepare()
    return next(made.scratch.glob("template-*.db"))


@pytest.fixture
def scripts(store: FilesTracker, folder: Path, template: Path) -> FilesTracker:
    """The store, ready for programs of the user's own."""
    (folder / "scratch").mkdir()
    shutil.copy(template, folder / "scratch")
    return store


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a Python program in a process of its own: `start(code, *arguments, env={...})`."""
    with ExitStack() as started:

        def begin(code: str, *arguments: object, env: dict[str, str] | None = None) -> ForkedPython:
            environment = {**os.environ, **(env or {})}
            return started.enter_context(
                ForkedPython(["-c", code, *map(str, arguments)], environment=environment)
            )

        yield begin
