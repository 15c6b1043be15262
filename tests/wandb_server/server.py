"""The test server as tests see it: start it, fill it, break it, ask it what happened."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from http.server import ThreadingHTTPServer
from types import TracebackType
from typing import Any

from wandb_server.faults import Faults
from wandb_server.handler import Backend, Handler
from wandb_server.oplog import OperationLog
from wandb_server.store import ACTIVE_STATES, RUN_STATES, Run, Store, Sweep
from wandb_server.uploads import files_of
from wandb_server.values import iso_time, new_id, spell_numbers

API_KEY = "0" * 40
"""A key of the form the client asks for; it opens nothing but the test server."""
ENTITY = "test-entity"


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, handler: type[Handler]) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that was killed or gave up is no failure of the server.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def cut_connections(self) -> None:
        """End what is still open: clients keep connections, and would go on being answered on them."""
        for connection in list(self.connections):
            with suppress(OSError):  # the client was faster
                connection.shutdown(socket.SHUT_RDWR)


class WandbServer:
    """A W&B server on a port of 127.0.0.1; ``store`` holds its state, ``faults`` its faults, ``operations`` its log."""

    def __init__(self, api_key: str = API_KEY, entity: str = ENTITY, port: int = 0) -> None:
        self.api_key = api_key
        self.entity = entity
        self.store = Store(entity, "test-user")
        self.faults = Faults()
        self.operations = OperationLog()
        backend = Backend(self.store, api_key, self.faults, self.operations)
        handler = type("BoundHandler", (Handler,), {"backend": backend})
        self._http = _HTTPServer(port, handler)
        self.url = self.store.base_url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> WandbServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering, free the port and end open connections; a second call does nothing."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._http.server_close()
            self._http.cut_connections()
            self._thread.join()

    def reset(self) -> None:
        """Forget all state, faults and the log; address and key stay."""
        self.store.clear()
        self.faults.clear()
        self.operations.clear()

    # ---- reading

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order they were made."""
        with self.store.lock:
            return list(self.store.runs.values())

    @property
    def sweeps(self) -> list[Sweep]:
        """All sweeps, in the order they were made."""
        with self.store.lock:
            return list(self.store.sweeps.values())

    def run(self, path: str) -> Run:
        """The run of ``entity/project/name``; ``KeyError`` when there is none."""
        entity, project, name = path.split("/")
        with self.store.lock:
            return self.store.runs[entity, project, name]

    def files_of(self, run: Run) -> dict[str, bytes]:
        """Uploaded files of a run by name."""
        with self.store.lock:
            return files_of(self.store, run)

    # ---- writing

    def add_run(
        self,
        entity: str,
        project: str,
        name: str | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        history: Mapping[str, Any] | Iterable[Mapping[str, Any]] = (),
        state: str = "finished",
        summary: Mapping[str, Any] | None = None,
        sweep: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] = (),
        display_name: str | None = None,
        created_at: float | None = None,
        wandb_config: Mapping[str, Any] | None = None,
    ) -> Run:
        """Add a run without a client.

        ``history``: rows, or columns of equal length (numpy arrays, lists with ``None`` for missing values), which
        stay compact; without ``_step`` the line number is the step. ``summary`` defaults to the last value of each
        key. ``created_at`` is in seconds since the epoch.
        """
        if state not in RUN_STATES:
            raise ValueError(f"unknown run state {state!r}; known: {', '.join(sorted(RUN_STATES))}")
        with self.store.lock:
            self.store.make_project(entity, project)
            now = self.store.now()
            run = Run(
                entity=entity,
                project=project,
                name=name or new_id(),
                created_at=now if created_at is None else iso_time(created_at),
                heartbeat_at=now,
                display_name=display_name or f"run-{len(self.store.runs) + 1}",
                state=state,
                tags=list(tags),
                sweep=sweep,
                group=group,
                job_type=job_type,
            )
            run.config = {key: {"value": spell_numbers(value)} for key, value in (config or {}).items()}
            run.config["_wandb"] = {"value": {"t": 1, **(wandb_config or {})}}
            if isinstance(history, Mapping):
                run.history.load_columns(history)
            else:
                run.history.load_rows(history)
            run.summary = spell_numbers(dict(summary)) if summary is not None else last_values(run)
            self.store.runs[entity, project, run.name] = run
        return run

    def set_state(self, run: Run | str, state: str, *, silent_for_s: float = 0.0) -> Run:
        """Set a run's state, and its last heartbeat ``silent_for_s`` seconds before now."""
        if state not in RUN_STATES:
            raise ValueError(f"unknown run state {state!r}; known: {', '.join(sorted(RUN_STATES))}")
        found = self.run(run) if isinstance(run, str) else run
        with self.store.lock:
            found.state = state
            found.heartbeat_at = iso_time(time.time() + self.store.clock_offset_s - silent_for_s)
        return found

    def crash_active_runs(self) -> list[Run]:
        """Do what W&B does to runs that were silent for minutes: call them crashed. Returns them."""
        with self.store.lock:
            active = [run for run in self.runs if run.state in ACTIVE_STATES]
            return [self.set_state(run, "crashed", silent_for_s=600) for run in active]

    def delete_sweep(self, name: str) -> None:
        """Delete a sweep: its agents get 404, queries null; its runs stay."""
        with self.store.lock:
            del self.store.sweeps[name]


def last_values(run: Run) -> dict[str, Any]:
    """The summary a client would have sent: the last value of every key."""
    summary: dict[str, Any] = {}
    if run.history.block is not None and len(run.history):
        for name in run.history.block.column_names:
            values = run.history.block.column(name).drop_null()
            if len(values):
                summary[name] = spell_numbers(values[-1].as_py())
    for row in run.history.tail:
        summary |= row
    return summary
