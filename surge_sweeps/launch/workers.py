"""Worker processes that train packs of trials and hand the finished runs back to the one process that writes them.

One writer means that no two processes ever contend for the tracker's store, and that a pack is either written whole or
trained again. Workers die with their parent, however it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from surge_sweeps.sweep import Trial
from surge_sweeps.trackers.base import RunRecord

PARENT_CHECK_SECONDS = 1.0


def train_pack(trials: Sequence[Trial]) -> list[RunRecord]:
    """Train the trials of one pack together; runs in a worker."""
    from surge_sweeps.training import TrialConfig, train

    return train([(trial.trial_id, TrialConfig.from_parameters(trial.parameters)) for trial in trials])


def start_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of `workers` processes that share the machine's cores between them."""
    threads = max(1, available_cores() // workers)
    return ProcessPoolExecutor(
        workers,
        # A forked torch process can hang on the locks of threads that fork did not copy.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(threads, os.getpid()),
    )


def stop_pool(pool: ProcessPoolExecutor) -> None:
    """End the workers at once, whatever they are doing."""
    # ProcessPoolExecutor has no public way to end a running task before Python 3.14.
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(timeout=5)


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker(threads: int, parent_pid: int) -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from surge_sweeps.training import limit_threads

    limit_threads(threads)
    threading.Thread(target=_exit_with_parent, args=(parent_pid,), daemon=True).start()


def _exit_with_parent(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)
