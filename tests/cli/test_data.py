"""`surge-sweep data` as a user types it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from surge_sweeps.cli import data as command
from surge_sweeps.cli.console import typer_app
from surge_sweeps.errors import SurgeError
from surge_sweeps.training.data.known import KNOWN, Form, KnownData, RemoteFile


def call(*arguments: str) -> str:
    app = typer_app("test")
    app.command()(command.data)
    done = CliRunner().invoke(app, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURGE_DATA_DIR", str(tmp_path))


def test_all_that_is_known_is_listed(tmp_path: Path) -> None:
    (tmp_path / "tinyshakespeare.txt").write_text("To be")
    lines = call().splitlines()
    assert [line.split()[0] for line in lines[: len(KNOWN)]] == list(KNOWN)
    assert [line for line in lines if " here " in line and " not here " not in line] == [
        line for line in lines if line.startswith("tinyshakespeare")
    ]


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_list_says_what_to_fetch_and_where_it_goes(name: str, tmp_path: Path) -> None:
    said = call(name, "--list")
    for file in KNOWN[name].files:
        assert f"curl -fL --create-dirs -o {tmp_path / file.path} {shlex.quote(file.url)}" in said
        assert (file.checksum or "no checksum known") in said
    assert not list(tmp_path.iterdir())


def test_what_is_there_in_another_form_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    for name in ("cifar10-train.zip", "cifar10-test.zip"):
        (tmp_path / "cifar10" / name).touch()
    assert "already, as cifar10/cifar10-train.zip and cifar10/cifar10-test.zip" in call("cifar10")


def test_fetching_ends_with_how_to_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source.txt"
    source.write_text("To be")
    files = tuple(RemoteFile(f"small/{name}.txt", source.as_uri()) for name in ("a", "b"))
    small = KnownData("small", "text", "Small.", files, (Form(("small/a.txt", "small/b.txt")),))
    monkeypatch.setitem(KNOWN, "small", small)
    said = call("small")
    assert "small: 2 files fetched, 0 there already" in said
    assert "no checksum is known of 2 files" in said
    assert "workload text, data small" in said
    assert (tmp_path / "small" / "b.txt").read_text() == "To be"
    assert "0 files fetched, 2 there already" in call("small")


def test_without_a_network_the_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RemoteFile("small/a.txt", "http://127.0.0.1:9/a.txt")
    monkeypatch.setitem(KNOWN, "small", KnownData("small", "text", "Small.", (file,), (Form((file.path,)),)))
    with pytest.raises(SurgeError, match=f"curl -fL --create-dirs -o {tmp_path / file.path}"):
        call("small")


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(SurgeError, match=r"unknown data set 'mnist'. Valid: .*fashion-mnist"):
        call("mnist")


def test_the_command_needs_no_torch() -> None:
    code = "import sys, surge_sweeps.cli.data; print(sorted({'torch', 'PIL', 'huggingface_hub'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
