"""The engine: a launch is an Indexed Job, which the cluster works off whether or not anybody watches."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.base import TaskState
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.kubernetes.cluster import Cluster, ClusterError
from surge_sweeps.launch.kubernetes.connection import Place
from surge_sweeps.launch.kubernetes.manifest import (
    ALL,
    CONTAINER,
    Document,
    cancelled_name,
    goes_on_after_time_limit,
    job_name,
    manifests,
    to_yaml,
)
from surge_sweeps.launch.kubernetes.manifest_checks import check_manifest
from surge_sweeps.launch.kubernetes.options import KubernetesOptions
from surge_sweeps.launch.kubernetes.reading import format_indexes, parse_indexes, part
from surge_sweeps.launch.kubernetes.states import (
    CANCELLED_ANNOTATION,
    cancelled_of,
    has_living_pods,
    is_over,
    task_of,
    task_states,
)

_NEVER_SUBMITTED = "it was never handed to the cluster."


class KubernetesLauncher:
    """Runs the tasks of a launch as the indexes of a Job, each in one pod at a time; see `Launcher`.

    Needs Kubernetes 1.29 or newer. A pod that the cluster takes away is run again, and goes on where a claim keeps its
    checkpoints; a pod that ended by itself with a failure is not.

    Args:
        options: how pods look; None is enough to ask after a launch, to cancel it and to read its logs.
    """

    name = "kubernetes"
    outlives_launch = True
    poll_seconds = 10.0

    def __init__(self, options: KubernetesOptions | None = None) -> None:
        self._options = options
        self._clusters: dict[Place, Cluster] = {}

    @classmethod
    def of(cls, launch: Launch) -> KubernetesLauncher:
        """The engine of a launch that was recorded: where its job lies stands in its folder."""
        return cls()

    def describe(self, launch: Launch) -> str:
        """The manifest as YAML, to be read, edited, and handed over by `kubectl apply -f` as well as by `submit`."""
        return to_yaml(self._documents(launch), self._comment(launch))

    def submit(self, launch: Launch) -> None:
        """Create the ConfigMap and the Job. What is there already, by an earlier call for this launch, stays.

        Raises:
            SurgeError: the cluster refuses, or cannot be reached.
        """
        config, job = self._documents(launch)
        options = self._given()
        place = Place.named(options.context, options.namespace)
        cluster = self._cluster(place)
        place.note(launch)
        cluster.create(config)
        name = job_name(launch.plan.launch_id)
        try:
            cluster.create(job)
        except ClusterError as error:
            # Without a status nobody knows whether the job arrived; the plan must then stay.
            if error.status:
                cluster.delete_config(name)
            raise
        created = cluster.job(name)
        if created is not None:
            # The plan goes when its job does.
            cluster.patch_config(name, {"metadata": {"ownerReferences": [_owner(created)]}})

    def status(self, launch: Launch) -> Mapping[int, TaskState]:
        """See `Launcher`: two requests, and a third where no pod of the job comes to be made."""
        tasks = len(launch.plan.tasks)
        cluster = self._cluster_of(launch)
        if cluster is None:
            return dict.fromkeys(range(tasks), TaskState("failed", _NEVER_SUBMITTED))
        name = job_name(launch.plan.launch_id)
        job = cluster.job(name)
        if job is None:
            gone = f"the cluster has no job {name}: it never arrived there, or was deleted."
            return dict.fromkeys(range(tasks), TaskState("failed", gone))
        pods = cluster.pods(launch.plan.launch_id)
        is_stuck = not (is_over(job) or has_living_pods(pods) or part(job, "spec").get("suspend"))
        warnings = cluster.warnings(name) if is_stuck else []
        return task_states(job, pods, tasks, f"the cluster says: {warnings[-1]}" if warnings else "")

    def cancel(self, launch: Launch, tasks: Collection[int] | None = None) -> None:
        """See `Launcher`.

        The whole launch: the job's deadline becomes now, which ends its pods and keeps what is known of it. Some tasks:
        they are put on a list that their pods read when they begin, and the pods at work are deleted; each is replaced
        by one that reads the list and ends. A task whose new pod finds no node stays `waiting` until it does.
        """
        cluster = self._cluster_of(launch)
        name = job_name(launch.plan.launch_id)
        job = cluster.job(name) if cluster is not None else None
        if cluster is None or job is None or is_over(job):
            return
        status = part(job, "status")
        done = parse_indexes(status.get("completedIndexes")) | parse_indexes(status.get("failedIndexes"))
        chosen = set(range(len(launch.plan.tasks)) if tasks is None else tasks) - done
        if not chosen:
            return
        if tasks is None and not done and part(job, "spec").get("suspend") is True:
            # It still queues: its deadline would not come before the queue lets it start.
            cluster.delete_job(name)
            return
        self._list_cancelled(cluster, launch, job, [ALL] if tasks is None else [str(task) for task in chosen])
        known = cancelled_of(job, len(launch.plan.tasks)) | chosen
        noted = ALL if tasks is None else format_indexes(known)
        change: Document = {"metadata": {"annotations": {CANCELLED_ANNOTATION: noted}}}
        if tasks is None:
            cluster.patch_job(name, {**change, "spec": {"activeDeadlineSeconds": 1}})
            return
        cluster.patch_job(name, change)
        for pod in cluster.pods(launch.plan.launch_id):
            metadata = part(pod, "metadata")
            if task_of(pod) in chosen and has_living_pods([pod]) and not metadata.get("deletionTimestamp"):
                cluster.delete_pod(str(metadata["name"]))

    def logs(self, launch: Launch, task: int) -> str:
        """See `Launcher`: the end of what the newest pod of a task printed, while the cluster keeps it."""
        cluster = self._cluster_of(launch)
        pods = cluster.pods_of_task(launch.plan.launch_id, task) if cluster is not None else []
        if cluster is None or not pods:
            return ""
        return cluster.log(str(part(pods[-1], "metadata")["name"]), CONTAINER)

    def _list_cancelled(
        self, cluster: Cluster, launch: Launch, job: Document, entries: Collection[str]
    ) -> None:
        name = cancelled_name(launch.plan.launch_id)
        content: Document = {"data": dict.fromkeys(entries, "")}
        if cluster.patch_config(name, content):
            return
        whole = {"apiVersion": "v1", "kind": "ConfigMap", **content}
        whole["metadata"] = {"name": name, "ownerReferences": [_owner(job)]}
        if not cluster.create(whole):
            # Another cancel made it just now.
            cluster.patch_config(name, content)

    def _given(self) -> KubernetesOptions:
        if self._options is None:
            raise SurgeError(
                "no image is named for the pods.", "Name one that holds this package and your trials."
            )
        return self._options

    def _documents(self, launch: Launch) -> list[Document]:
        documents = manifests(launch.plan, self._given())
        problems = check_manifest(documents)
        if problems:
            raise SurgeError(
                f"this manifest would not do: {problems[0]}", "Change the options of this launch."
            )
        return documents

    def _comment(self, launch: Launch) -> str:
        plan, options = launch.plan, self._given()
        keeps = goes_on_after_time_limit(plan.resources, options)
        state = (
            f"Checkpoints are kept on the claim {options.claim!r}: a pod that is lost goes on in the next."
            if options.claim
            else "No claim is named: a pod that is lost takes its checkpoints with it, and its trial starts over."
        )
        limit = (
            ""
            if keeps
            else "A trial whose time limit comes has failed, for its state would be lost with the pod.\n"
        )
        return (
            f"Launch {plan.launch_id}: {len(plan.tasks)} tasks, one index of the Job each; kubectl apply -f FILE\n"
            "Each pod runs: python -m surge_sweeps.launch.run_task LAUNCH_FOLDER INDEX\n"
            "It exits 0 where its trials have results, and a loss that diverges is one; with 85 where it was asked to\n"
            "make room, after which it is run again; with anything else it has failed, and is not run again.\n"
            f"{state}\n{limit}"
            "Logins come from Secrets by name (envFrom); this file holds none."
        )

    def _cluster_of(self, launch: Launch) -> Cluster | None:
        place = Place.of(launch)
        return None if place is None else self._cluster(place)

    def _cluster(self, place: Place) -> Cluster:
        if place not in self._clusters:
            self._clusters[place] = Cluster(place)
        return self._clusters[place]


def _owner(job: Document) -> Document:
    metadata = part(job, "metadata")
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": metadata.get("name"),
        "uid": metadata.get("uid"),
    }
