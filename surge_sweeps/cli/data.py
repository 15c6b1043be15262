"""`surge-sweep data`: the data sets that are known by name, where they lie, and fetching them."""

from __future__ import annotations

from typing import Annotated

import typer

from surge_sweeps.cli.console import progress_bar, say, tell
from surge_sweeps.cli.launch_options import Quiet
from surge_sweeps.counting import counted
from surge_sweeps.training.data.fetch import command, fetch
from surge_sweeps.training.data.known import KNOWN, KnownData, known, present_forms
from surge_sweeps.training.data.places import DATA_VARIABLE, data_folder


def data(
    name: Annotated[str | None, typer.Argument(help="A data set. Default: list all that are known.")] = None,
    list_: Annotated[
        bool,
        typer.Option(
            "--list", help="Fetch nothing: say where the data set belongs and the commands that fetch it."
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a known data set into the data folder, or list what is known.

    The data folder is `data` in the working folder, or SURGE_DATA_DIR. Files are checked against their checksums where
    those are known; an interrupted fetch goes on where it stopped. On a machine without a network, --list gives the
    commands to run where there is one, and where to put what they fetch.
    """
    if name is None:
        for item in KNOWN.values():
            here = "here" if present_forms(item) else "not here"
            tell(f"{item.name:<22}{item.kind:<8}{here:<10}{item.about}")
        tell(f"Data folder: {data_folder()} ({DATA_VARIABLE}). Fetch one with: surge-sweep data NAME")
        return
    wanted = known(name)
    if list_:
        _describe(wanted)
        return
    if others := [form for form in present_forms(wanted) if form != wanted.forms[0]]:
        tell(f"{name} is in {data_folder()} already, as {' and '.join(others[0].paths)}.")
        _tell_use(wanted)
        return
    fetched = 0
    for number, file in enumerate(wanted.files, start=1):
        say(f"[{number}/{len(wanted.files)}] {file.url}", quiet=quiet)
        with progress_bar(file.path, quiet=quiet, lines=True) as progress:
            fetched += fetch(file, data_folder(), progress)
    unchecked = sum(file.checksum is None for file in wanted.files)
    note = f"; no checksum is known of {counted(unchecked, 'file')}" if unchecked else ", checksums right"
    there = len(wanted.files) - fetched
    tell(f"{name}: {counted(fetched, 'file')} fetched, {there:,} there already, in {data_folder()}{note}.")
    _tell_use(wanted)


def _describe(wanted: KnownData) -> None:
    tell(f"{wanted.name}: {wanted.about}")
    present = present_forms(wanted)
    tell(f"It is read below {data_folder()} ({DATA_VARIABLE}) as one of:")
    for form in wanted.forms:
        tell(f"  {' and '.join(form.paths)}{'   (is there)' if form in present else ''}")
    tell("Fetch it with: surge-sweep data " + wanted.name + "   or, where there is a network, with:")
    for file in wanted.files:
        size = f"{file.size_bytes:,} bytes" if file.size_bytes is not None else "size not known"
        tell(f"  {command(file, data_folder())}")
        tell(f"    {size}, {file.checksum or 'no checksum known'}")


def _tell_use(wanted: KnownData) -> None:
    tell(f"Train on it with: workload {wanted.kind}, data {wanted.name}")
