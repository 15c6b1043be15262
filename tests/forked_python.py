"""Python programs as processes of their own, forked from one that has imported torch and MLflow already.

A start costs a fiftieth of a fresh one's. It is a process like any other: with its own memory, working folder,
environment and connections, and it can be signalled and killed. For tests of what several processes do to a store, or
of what becomes of one that ends; what the start itself does is for real command lines.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, NamedTuple

_CONTEXT = multiprocessing.get_context("forkserver")


class ForkedPython:
    """`subprocess.Popen`, as far as tests use it, for the arguments of `python`: `-c code ...` or `-m module ...`.

    Its standard input, output and errors are pipes of text.

    Args:
        environment: in place of this process's. folder: where it runs; default: where this process is.
        errors_too: what it says on stderr comes with the rest, and `stderr` stays empty.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        errors_too: bool = False,
    ) -> None:
        _start_server()
        stdin, to_stdin = _CONTEXT.Pipe(duplex=False)
        from_stdout, stdout = _CONTEXT.Pipe(duplex=False)
        from_stderr, stderr = _CONTEXT.Pipe(duplex=False)
        program = _Program(
            list(arguments),
            dict(os.environ if environment is None else environment),
            str(folder or Path.cwd()),
            stdin,
            stdout,
            stdout if errors_too else stderr,
        )
        self._process = _CONTEXT.Process(target=_become, args=(program,))
        self._process.start()
        self.stdin = _taken(to_stdin, "w")
        self.stdout = _taken(from_stdout, "r")
        self.stderr = _taken(from_stderr, "r")
        for end in (stdin, stdout, stderr):
            end.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, `-N` for signal N, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """As `returncode`."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; its exit code."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked Python", timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Close its input and wait for its end; what it said and nobody has read."""
        self.stdin.close()
        # They are read meanwhile: a full pipe would hold the program up.
        with ThreadPoolExecutor(2) as readers:
            out, err = (readers.submit(stream.read) for stream in (self.stdout, self.stderr))
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            return out.result(), err.result()

    def send_signal(self, number: int) -> None:
        """Signal it."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, and wait until it is gone; nothing if it has ended."""
        self._process.kill()
        self._process.join()

    def __enter__(self) -> ForkedPython:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()


class _Program(NamedTuple):
    arguments: list[str]
    environment: dict[str, str]
    folder: str
    stdin: Connection
    stdout: Connection
    stderr: Connection


def _taken(end: Connection, mode: str) -> IO[str]:
    """Our end of a pipe as a file of text."""
    file = os.fdopen(os.dup(end.fileno()), mode, encoding="utf-8")
    end.close()
    return file


def _start_server() -> None:
    """Once a session; a second call does nothing."""
    # Before Python 3.13 what is preloaded is looked for without this process's path.
    found = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        _CONTEXT.set_forkserver_preload(["forked_python_imports"])
        forkserver.ensure_running()
    finally:
        if found is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = found


def _become(program: _Program) -> None:
    for number, end in enumerate((program.stdin, program.stdout, program.stderr)):
        os.dup2(end.fileno(), number)
    for end in (program.stdin, program.stdout, program.stderr):
        end.close()
    # multiprocessing has put another in its place.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    # Where the tests run in the background it is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(program.environment)
    os.chdir(program.folder)
    if "OMP_NUM_THREADS" in os.environ:
        import torch

        # It has read that as it was imported, elsewhere.
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    kind, what, *given = program.arguments
    sys.argv = [kind, *given]
    sys.path.insert(0, program.folder)
    try:
        if kind == "-m":
            sys.modules.pop(what, None)
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    finally:
        # What multiprocessing leaves out at the end of a process.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
