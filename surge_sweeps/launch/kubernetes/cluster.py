"""The few things that are asked of a cluster, with the official client; what it refuses is told in a sentence.

Answers are taken as they come: the client's own classes would refuse those of servers newer than itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from surge_sweeps.errors import SurgeError
from surge_sweeps.extras import require
from surge_sweeps.launch.kubernetes.connection import ANSWER_SECONDS, CONNECT_SECONDS, Place
from surge_sweeps.launch.kubernetes.manifest import LAUNCH_LABEL
from surge_sweeps.launch.kubernetes.reading import Document, items, part
from surge_sweeps.launch.one_line import one_line

#: Pods of one answer.
PAGE = 500
#: Lines of a log at most, from its end.
LOG_LINES = 20_000


class ClusterError(SurgeError):
    """A cluster refused something, or did not answer."""

    status: int = 0


class Cluster:
    """A cluster, and the namespace of a launch in it.

    Args:
        place: where.

    Raises:
        MissingExtraError: the client is not installed. SurgeError: the kubeconfig cannot be used.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        api = place.client()
        client = require("kubernetes.client", "kubernetes")
        self._core, self._batch = client.CoreV1Api(api), client.BatchV1Api(api)
        self._host = str(api.configuration.host)

    def create(self, document: Document) -> bool:
        """Create a ConfigMap or a Job; False if there is one of its name."""
        make = {
            "ConfigMap": self._core.create_namespaced_config_map,
            "Job": self._batch.create_namespaced_job,
        }[document["kind"]]
        try:
            self._ask(f"create the {document['kind']} {document['metadata']['name']}", make, body=document)
        except ClusterError as error:
            if error.status == 409:
                return False
            raise
        return True

    def job(self, name: str) -> Document | None:
        """The Job of that name; None if there is none."""
        return self._if_there(f"read the job {name}", self._batch.read_namespaced_job, name)

    def delete_job(self, name: str) -> None:
        """Delete a Job and its pods, which are asked to end; one that is gone stays so."""
        ask = self._batch.delete_namespaced_job
        self._if_there(f"delete the job {name}", ask, name, propagation_policy="Foreground")

    def patch_job(self, name: str, change: Document) -> None:
        """Change a Job; one that is gone stays so."""
        self._if_there(f"change the job {name}", self._batch.patch_namespaced_job, name, body=change)

    def patch_config(self, name: str, change: Document) -> bool:
        """Change a ConfigMap; False if there is none of that name."""
        ask = self._core.patch_namespaced_config_map
        return self._if_there(f"change the ConfigMap {name}", ask, name, body=change) is not None

    def delete_config(self, name: str) -> None:
        """Delete a ConfigMap; one that is gone stays so."""
        self._if_there(f"delete the ConfigMap {name}", self._core.delete_namespaced_config_map, name)

    def delete_pod(self, name: str) -> None:
        """Ask a pod to end: its program gets TERM, and the time that its Job grants for saving."""
        self._if_there(f"end the pod {name}", self._core.delete_namespaced_pod, name)

    def pods(self, launch_id: str) -> list[Document]:
        """The pods of a launch but those that succeeded, which its Job counts."""
        found: list[Document] = []
        more = None
        while more != "":
            answer = self._ask(
                "list the pods",
                self._core.list_namespaced_pod,
                label_selector=f"{LAUNCH_LABEL}={launch_id}",
                field_selector="status.phase!=Succeeded",
                limit=PAGE,
                **({"_continue": more} if more else {}),
            )
            found += items(answer, "items")
            more = str(part(answer, "metadata").get("continue") or "")
        return found

    def pods_of_task(self, launch_id: str, task: int) -> list[Document]:
        """The pods of one task, those that succeeded too; the newest last."""
        selector = f"{LAUNCH_LABEL}={launch_id},batch.kubernetes.io/job-completion-index={task}"
        answer = self._ask("list the pods", self._core.list_namespaced_pod, label_selector=selector)
        return sorted(
            items(answer, "items"), key=lambda pod: str(part(pod, "metadata").get("creationTimestamp"))
        )

    def log(self, pod: str, container: str) -> str:
        """What a container printed; empty where it has not begun or is gone."""
        try:
            return self._text(
                f"read the log of the pod {pod}",
                self._core.read_namespaced_pod_log,
                name=pod,
                container=container,
                tail_lines=LOG_LINES,
            )
        except ClusterError as error:
            # 400: the container is waiting to start.
            if error.status in (400, 404):
                return ""
            raise

    def warnings(self, job: str) -> list[str]:
        """What the cluster has to say against a Job, the newest last."""
        selector = f"involvedObject.name={job},involvedObject.kind=Job,type=Warning"
        answer = self._ask(
            "read the events", self._core.list_namespaced_event, field_selector=selector, limit=PAGE
        )
        events = sorted(items(answer, "items"), key=lambda event: str(event.get("lastTimestamp") or ""))
        return [one_line(event.get("message", "")) for event in events]

    def _if_there(self, what: str, ask: Any, name: str, **arguments: Any) -> Document | None:
        try:
            return self._ask(what, ask, name=name, **arguments)
        except ClusterError as error:
            if error.status == 404 and not _lacks_namespace(error):
                return None
            raise

    def _ask(self, what: str, ask: Any, **arguments: Any) -> Document:
        text = self._text(what, ask, **arguments)
        try:
            return part(json.loads(text))
        except ValueError as error:
            raise ClusterError(
                f"{self._host} did not answer as a Kubernetes server does.", "Check the kubeconfig's address."
            ) from error

    def _text(self, what: str, ask: Any, **arguments: Any) -> str:
        with self._explained(what):
            answer = ask(
                namespace=self._place.namespace,
                _preload_content=False,
                _request_timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
                **arguments,
            )
            return bytes(answer.data).decode("utf-8", errors="replace")

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        errors, urllib3 = (
            require("kubernetes.client.exceptions", "kubernetes"),
            require("urllib3", "kubernetes"),
        )
        config = require("kubernetes.config", "kubernetes")
        try:
            yield
        except errors.ApiException as error:
            raise self._refusal(what, error) from error
        except (urllib3.exceptions.HTTPError, config.ConfigException, OSError) as error:
            raise self._no_answer(error) from error

    def _no_answer(self, error: Exception) -> ClusterError:
        cause = one_line(getattr(error, "reason", None) or error)
        return ClusterError(
            f"the cluster at {self._host} does not answer: {cause}.",
            f"Check with: kubectl --context {self._place.context} get nodes",
        )

    def _refusal(self, what: str, error: Any) -> ClusterError:
        status, namespace = int(error.status or 0), self._place.namespace
        if status == 0:
            return self._no_answer(error)
        said = _said(error.body)
        refused = ClusterError(
            f"the cluster will not {what} in {namespace!r}: {said}.", _hint(status, said, namespace)
        )
        refused.status = status
        return refused


def _lacks_namespace(error: SurgeError) -> bool:
    return "namespaces " in error.what


def _said(body: object) -> str:
    text = body.decode("utf-8", errors="replace") if isinstance(body, bytes) else str(body or "")
    try:
        message = part(json.loads(text)).get("message")
    except ValueError:
        message = None
    return one_line(message or text or "it gives no reason").rstrip(".")


def _hint(status: int, said: str, namespace: str) -> str:
    if status == 401:
        return "Log in to the cluster again."
    if status == 403 and "exceeded quota" in said:
        return f"Ask for less, or see what is left: kubectl describe quota -n {namespace}"
    if status == 403:
        return f"Ask for the right to it, or name another namespace; see: kubectl auth can-i --list -n {namespace}"
    if status == 404 and "namespaces " in said:
        return f"Name one that exists, or make it: kubectl create namespace {namespace}"
    if status in (400, 422):
        return "Look at the manifest with --dry-run, and at the options of this launch."
    if status in (429, 500, 502, 503, 504):
        return "The server has trouble of its own: call again in a while."
    return ""
