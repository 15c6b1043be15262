"""What a user sets for an engine on the command line or in a file, and `surge-sweep engines`, which lists it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.markup import escape
from rich.table import Table

from surge_sweeps.cli.console import out
from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.engines import ENGINES, options_class, settings

_WORDS = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "tuple[str, ...]": "texts: give it again for each",
    "Mapping[str, str]": "texts by key: NAME.KEY=VALUE",
}


def read_settings(pairs: Iterable[str], file: Path | None) -> dict[str, object]:
    """The settings of a file, and over them those given as `NAME=VALUE`.

    A name given several times is a list; `NAME.KEY=VALUE` is an entry of a mapping.

    Raises:
        SurgeError: a text that is no pair, or a file that is no mapping.

    >>> read_settings(["partition=low", "line=--exclusive", "line=--mail-type=END", "node_selector.disk=ssd"], None)
    {'partition': 'low', 'line': ['--exclusive', '--mail-type=END'], 'node_selector': {'disk': 'ssd'}}
    """
    found: dict[str, object] = {}
    given: dict[str, list[str]] = {}
    for pair in pairs:
        name, is_pair, value = pair.partition("=")
        if not is_pair or not name:
            raise SurgeError(f"--set was given {pair!r}.", "Write it as --set NAME=VALUE.")
        given.setdefault(name.strip().replace("-", "_") if "." not in name else name, []).append(value)
    for name, values in given.items():
        outer, is_entry, key = name.partition(".")
        if is_entry:
            entries = found.setdefault(outer.strip().replace("-", "_"), {})
            if isinstance(entries, dict):
                entries[key] = values[-1]
        else:
            found[name] = values if len(values) > 1 else values[0]
    return (_read_file(file) if file is not None else {}) | found


def as_kinds(engine: str, given: dict[str, object]) -> dict[str, object]:
    """A single text where an engine's setting is a list of texts stands for a list of one."""
    lists = {item.name for item in settings(engine) if item.kind.startswith("tuple")}
    return {
        name: [value] if name in lists and isinstance(value, str) else value for name, value in given.items()
    }


def engines(
    engine: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(ENGINES)}.")] = None,
) -> None:
    """List the engines that `surge-sweep launch --on` takes, or what may be set for one of them."""
    if engine is None:
        for name in ENGINES:
            about = (inspect.getdoc(options_class(name)) or "").partition("\n")[0]
            out.print(f"{name:<12}{about}", markup=False, highlight=False, soft_wrap=True)
        out.print("surge-sweep engines NAME lists what may be set for one.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("--set NAME=VALUE", "value", "default"):
        table.add_column(heading, overflow="fold")
    for item in settings(engine):
        default = "must be given" if item.default is None else _shown(item.default)
        table.add_row(escape(item.name), escape(_kind_in_words(item.kind)), escape(default))
    out.print(table)
    about = inspect.getdoc(options_class(engine)) or ""
    text = about.partition("Attributes:\n")[2].partition("\nRaises:")[0].partition("\n>>>")[0]
    out.print(f"\n{inspect.cleandoc(text)}", markup=False, highlight=False, soft_wrap=True)


def _shown(default: str) -> str:
    return "" if default in ("None", "[]", "()", "{}") else default


def _kind_in_words(kind: str) -> str:
    bare = kind.removesuffix(" | None")
    return _WORDS.get(bare, bare.replace("Literal", "").replace("int |", "whole number or"))


def _read_file(file: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SurgeError(f"there is no file {str(file)!r}.", "Name a YAML file with --settings.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SurgeError(f"{str(file)!r} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise SurgeError(
            f"{str(file)!r} holds no settings.",
            "Write one a line, like 'partition: low'; see: surge-sweep engines",
        )
    return {str(name).replace("-", "_"): value for name, value in content.items()}
