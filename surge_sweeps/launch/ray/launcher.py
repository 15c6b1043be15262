"""Trials as tasks of a Ray cluster.

The launch becomes one job of the cluster, of a name that the launch's id gives; the job hands out the tasks. The
working folder must be on a file system that all nodes share, and the nodes need Ray, surge_sweeps and, in their
environment, what logs in to the tracker: nothing of the launching machine's environment is sent along.
"""

from __future__ import annotations

import atexit
import os
import shlex
import sys
import time
from collections.abc import Collection, Mapping
from typing import Any

import yaml

from surge_sweeps.launch.base import IN_FLIGHT, TaskState
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.one_line import one_line
from surge_sweeps.launch.ray import known
from surge_sweeps.launch.ray.board import CLUSTER, Board, Job
from surge_sweeps.launch.ray.cluster import LocalCluster
from surge_sweeps.launch.ray.jobs import JobsClient, JobState
from surge_sweeps.launch.ray.options import RayOptions, check_fits, task_options
from surge_sweeps.launch.ray.task import GRACE_SECONDS

_OWN = "a cluster of our own on this machine, started by the launch and ended with it"
_POLL_SECONDS = 0.2
_WHY_CHARACTERS = 1000


class RayLauncher:
    """Runs launches on a running cluster, or on one of its own that ends when their tasks have, or this process does.

    Args:
        options: the default is a cluster of its own.

    >>> RayLauncher(RayOptions(address="http://head:8265")).outlives_launch, RayLauncher().outlives_launch
    (True, False)
    """

    name = "ray"
    poll_seconds = 1.0

    def __init__(self, options: RayOptions | None = None) -> None:
        self.options = options or RayOptions()
        self.outlives_launch = self.options.address is not None
        #: As the user gave it, not a folder.
        self._named = self.options.address
        self._cluster: LocalCluster | None = None
        #: Launches on the cluster of our own that have not ended, and the lock that says so of each.
        self._unfinished: dict[str, int] = {}

    @classmethod
    def of(cls, launch: Launch) -> RayLauncher:
        """The launcher of a recorded launch: enough to ask for its status, to cancel it and to read its logs.

        Where the folder of the launch alone names its cluster, that is asked without a token: see `known`.
        """
        job = Board(launch).job()
        made = cls(RayOptions(address=None if job is None or job.is_own else job.address))
        made._named = None
        return made

    @property
    def own_cluster(self) -> LocalCluster | None:
        """The cluster of its own, while there is one."""
        return self._cluster

    def describe(self, launch: Launch) -> str:
        """The job and what Ray is told of its tasks, as YAML."""
        tasks = {number: launch.plan.label_of(number) for number in range(len(launch.plan.tasks))}
        content = {
            "cluster": self.options.address or _OWN,
            "job": self._request(launch),
            "each task": {
                "runs": shlex.join(
                    ["python", "-m", "surge_sweeps.launch.run_task", str(launch.folder), "TASK"]
                ),
                **self._task_options(launch),
            },
            "tasks": tasks,
        }
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)

    def submit(self, launch: Launch) -> None:
        """Start the job, and first of all a cluster where there is none to use."""
        options = self._task_options(launch)
        client = self._client_to_submit()
        try:
            if self.options.address is None or not self.options.autoscaling:
                check_fits(options, client.nodes())
            # Written first: a kill right after the cluster has the job leaves what finds it again.
            board = Board(launch)
            if self._cluster is not None and (lock := board.lock(CLUSTER)) is not None:
                self._unfinished[launch.plan.launch_id] = lock
            if self._cluster is None and client.has_token:
                known.note(client.address)
            board.write_job(Job(client.address, _job_name(launch), not self.outlives_launch, options))
            client.submit(self._request(launch))
        except BaseException:
            self._set_over(launch)
            raise

    def status(self, launch: Launch) -> Mapping[int, TaskState]:
        """By the job's word in the launch's folder, as long as the cluster says that the job lives."""
        board = Board(launch)
        tasks = range(len(launch.plan.tasks))
        job = board.job()
        if job is None:
            return dict.fromkeys(tasks, TaskState("failed", "it was never handed to Ray."))
        state = self._job_state(job, board)
        # Asked for after the state of the job: what a job that is over has said is its last word.
        ended, started = board.ended(), board.started()
        is_alive = state is not None and not state.is_over
        states: dict[int, TaskState] = {}
        for task in tasks:
            if task in ended:
                states[task] = _shown(ended[task])
            elif is_alive:
                states[task] = TaskState("running" if task in started else "waiting")
            else:
                states[task] = _left_behind(launch, board, task, state)
        if all(found.state not in IN_FLIGHT for found in states.values()):
            self._set_over(launch)
        return states

    def cancel(self, launch: Launch, tasks: Collection[int] | None = None) -> None:
        """Ask tasks to end; with a cluster of its own, a cancel of all returns when they have, and it is ended too."""
        board = Board(launch)
        job = board.job()
        if job is None:
            return
        states = self.status(launch)
        in_flight = {task for task, state in states.items() if state.state in IN_FLIGHT}
        asked = in_flight if tasks is None else in_flight & set(tasks)
        if not asked:
            return
        board.ask_cancel(None if tasks is None else asked)
        state = self._job_state(job, board)
        if tasks is None and state is not None and state.status == "PENDING":
            # Nothing is there yet that would read the request.
            self._client(job).stop(job.name)
        if tasks is None and self._cluster is not None:
            self._wait_until_ended(launch)

    def logs(self, launch: Launch, task: int) -> str:
        """What the task has printed, in all its tries."""
        return launch.log_text(task)

    def close(self) -> None:
        """End the cluster of its own, with whatever still runs there; a second call does nothing."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.stop()
            atexit.unregister(self.close)
        while self._unfinished:
            os.close(self._unfinished.popitem()[1])

    def _request(self, launch: Launch) -> dict[str, Any]:
        python = self.options.python or sys.executable
        # Ray hands the entry point to a shell.
        entrypoint = shlex.join([python, "-m", "surge_sweeps.launch.ray.driver", str(launch.folder)])
        return {
            "submission_id": _job_name(launch),
            "entrypoint": entrypoint,
            "entrypoint_num_cpus": 0,
            "metadata": {"project": launch.plan.project, "launch": launch.plan.launch_id},
            # `ray job stop` then waits until the tasks have saved their state.
            "runtime_env": {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(round(2 * GRACE_SECONDS))}},
        }

    def _task_options(self, launch: Launch) -> dict[str, float | int]:
        return task_options(launch.plan.resources, self.options.max_retries)

    def _client_to_submit(self) -> JobsClient:
        if self.options.address is not None:
            client = self._client_at(self.options.address.rstrip("/"))
            client.check()
            return client
        if self._cluster is None or not self._cluster.is_running():
            self.close()
            self._cluster = LocalCluster(self.options.local_cpus, self.options.local_gpus)
            # Where the kernel cannot tie processes together, leaving in good order still ends them.
            atexit.register(self.close)
        return self._cluster.client

    def _client(self, job: Job) -> JobsClient:
        return self._cluster.client if self._cluster is not None else self._client_at(job.address)

    def _client_at(self, address: str) -> JobsClient:
        is_named = self._named is not None and address == self._named.rstrip("/")
        return JobsClient(address, is_trusted=is_named or known.is_known(address))

    def _job_state(self, job: Job, board: Board) -> JobState | None:
        """How the job stands; None where the cluster does not know it, or has ended with its launch."""
        if not job.is_own:
            return self._client(job).state(job.name)
        if self._cluster is not None and self._cluster.is_running():
            return self._cluster.client.state(job.name)
        # Another process has the cluster, and lets nobody else ask it.
        return JobState("RUNNING", "") if self._cluster is None and board.is_locked(CLUSTER) else None

    def _wait_until_ended(self, launch: Launch) -> None:
        deadline = time.monotonic() + 2 * GRACE_SECONDS
        while time.monotonic() < deadline:
            if all(found.state not in IN_FLIGHT for found in self.status(launch).values()):
                return
            time.sleep(_POLL_SECONDS)
        self.close()

    def _set_over(self, launch: Launch) -> None:
        """Nothing of a launch is at work: a cluster of our own ends with the last one."""
        lock = self._unfinished.pop(launch.plan.launch_id, None)
        if lock is not None:
            os.close(lock)
        if not self._unfinished:
            self.close()


def _job_name(launch: Launch) -> str:
    return f"surge-{launch.plan.launch_id}"


def _shown(state: TaskState) -> TaskState:
    """As a file of the launch says it, fit for a terminal."""
    return TaskState(state.state, one_line(state.why, _WHY_CHARACTERS))


def _left_behind(launch: Launch, board: Board, task: int, job: JobState | None) -> TaskState:
    """A task of a job that is over and said nothing of it: its own word, if it had one."""
    if board.is_locked(task):
        # It was asked when its worker was lost, and is saving its state.
        return TaskState("running")
    end = launch.end_of(task)
    if end is not None:
        return _shown(TaskState("failed", end.why)) if end.exit_code else TaskState("ended")
    if job is None:
        return TaskState("failed", "its Ray cluster has no such job, or has ended.")
    return TaskState("failed", f"its job on the Ray cluster {job.status.lower()}: {job.message}")
