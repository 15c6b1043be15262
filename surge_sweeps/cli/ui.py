"""`surge-sweep ui`: MLflow's own pages on the user's store, with links to what is worth opening."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from surge_sweeps.cli.console import out, say, show_address
from surge_sweeps.cli.launch_options import Quiet, Uri
from surge_sweeps.counting import counted
from surge_sweeps.launch.programs import TETHER
from surge_sweeps.trackers.mlflow.links import ServerLinks, find_links
from surge_sweeps.trackers.mlflow.schema import check_schema, is_server, open_to_read
from surge_sweeps.trackers.mlflow.serve import RunningServer, ServerPlan, free_port, plan_server
from surge_sweeps.trackers.mlflow.server_probe import refuse_wrong_host
from surge_sweeps.trackers.mlflow.uri import absolute_uri, display_uri, resolve_uri

_POLL_S = 0.2
_PORT = 5000
_HOST = "127.0.0.1"
#: Of each experiment, the newest.
_SWEEPS_SHOWN = 10


def ui(
    uri: Uri = None,
    port: Annotated[
        int | None, typer.Option(help=f"Port; if it is taken, the next free one. Default: {_PORT}.")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help=f"Address to listen on, 0.0.0.0 for all. Default: {_HOST}, which this machine alone reaches."
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="With --host: one more name by which browsers call this machine. May be repeated."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer.")] = 2,
    open_: Annotated[bool, typer.Option("--open", help="Open the list of experiments in a browser.")] = False,
    quiet: Quiet = False,
) -> None:
    """Show a store in MLflow's own pages, with links to the sweeps, their results and the saved views.

    Starts a server and ends it with Ctrl-C. With --uri http://..., where one runs already, it only prints the links.
    A store that is not there is not made. Artifacts of experiments that a server made are looked for in `mlartifacts`
    beside the store, or where MLFLOW_ARTIFACTS_DESTINATION says.
    """
    store = resolve_uri(uri)
    if is_server(store):
        if any(given is not None for given in (port, host, name)):
            raise typer.BadParameter(
                "--port, --host and --name are of a server to start, and --uri names a running one"
            )
        refuse_wrong_host(store)
        _show(find_links(store), open_)
        return
    with open_to_read(store) as connection:
        check_schema(connection, store)
    address = host or _HOST
    found = free_port(address, port or _PORT)
    if found != (port or _PORT):
        say(f"Port {port or _PORT} is taken: {found} is used.")
    plan = plan_server(store, address, found, names=name or (), workers=workers)
    if name and not plan.names:
        raise typer.BadParameter("--name goes with a --host that other machines reach, such as 0.0.0.0")
    _serve(plan, store, open_, quiet=quiet)


def _serve(plan: ServerPlan, store: str, open_: bool, *, quiet: bool) -> None:
    with _stop_signals() as stopped:
        say(f"Starting MLflow on {display_uri(absolute_uri(store))} ...", quiet=quiet)
        with RunningServer(plan, [*TETHER, str(os.getpid())], _tell) as server:
            server.wait_until_ready(stopped.is_set)
            if not stopped.is_set():
                _show(find_links(plan.url), open_)
                _warn_of_network(plan)
                _tell_of_tunnel(plan)
                out.print("Ctrl-C ends the server.", markup=False, highlight=False)
            while server.is_alive and not stopped.wait(_POLL_S):
                pass
            if not stopped.is_set():
                raise server.failure("ended by itself")
            say("Ending the server ...", quiet=quiet)


def _show(links: ServerLinks, open_: bool) -> None:
    """What to open first comes first: each result with its report, the views, and only then lists of runs."""
    for experiment in links.experiments:
        _line(experiment.runs.name)
        for result in experiment.results:
            if result.note:
                _line(f"  {result.note}")
            _link("report", result.report_url)
            _link(f"result, run {result.name}", result.url)
        for view in experiment.views:
            _link(f"view {view.name}", view.url)
        _link("all runs", experiment.runs.url)
        for sweep in experiment.sweeps[:_SWEEPS_SHOWN]:
            _link(f"sweep {sweep.name}", sweep.url)
            if sweep.note:
                _line(f"    {sweep.note}")
        if (more := len(experiment.sweeps) - _SWEEPS_SHOWN) > 0:
            _line(f"  and {counted(more, 'earlier sweep')}: see all runs")
        _line("")
    _line(f"Experiments: {links.home}")
    if links.others:
        kind = "other experiment" if links.experiments else "experiment"
        _line(f"  {counted(links.others, kind)} without a sweep or a result of this tool: see that list")
    elif not links.experiments:
        _line("  There is none, or none that this user may see.")
    if open_:
        show_address(links.home)


def _warn_of_network(plan: ServerPlan) -> None:
    if not plan.names:
        return
    port = plan.url.rpartition(":")[2]
    _line(
        "Anybody who reaches this machine over the network can now read, change and delete every run of this store:"
        " MLflow asks for no password."
    )
    _line(f"It answers under: {', '.join(f'{name}:{port}' for name in plan.names)}; --name adds another.")


def _tell_of_tunnel(plan: ServerPlan) -> None:
    if plan.names or not os.environ.get("SSH_CONNECTION"):
        return
    port = plan.url.rpartition(":")[2]
    _line(
        f"From your own computer: ssh -N -L {port}:127.0.0.1:{port} THIS-MACHINE, and then the links above."
    )


def _tell(line: str) -> None:
    say(f"MLflow: {line}")


def _link(name: str, url: str) -> None:
    _line(f"  {name}: {url}")


def _line(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and a closed terminal set, so that the server is ended in order."""
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
