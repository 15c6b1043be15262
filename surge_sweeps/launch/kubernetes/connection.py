"""Which cluster, by the user's kubeconfig or from inside a pod, and a client of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.extras import require
from surge_sweeps.files import write_text
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.one_line import one_line

#: A cluster that does not answer is told soon; it may take longer to find many pods.
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 30.0

_RECORD = "kubernetes.json"
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CONFIG_HINT = (
    "Name a kubeconfig by KUBECONFIG, or put it at ~/.kube/config; check it with: kubectl config get-contexts"
)


@dataclass(frozen=True)
class Place:
    """Where a launch lies: enough to find it again.

    Attributes:
        context: of the kubeconfig; None: the cluster that this process itself runs in. namespace: of the job.
    """

    context: str | None
    namespace: str

    @classmethod
    def of(cls, launch: Launch) -> Place | None:
        """The place that was noted for a launch; None if it never got so far as to be submitted."""
        try:
            return cls(**json.loads((launch.folder / _RECORD).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise SurgeError(f"{str(launch.folder / _RECORD)!r} cannot be read: {error}.") from error

    @classmethod
    def named(cls, context: str | None, namespace: str | None) -> Place:
        """The place that a user means, by default the kubeconfig's current context and its namespace.

        Raises:
            MissingExtraError: the client is not installed. SurgeError: no kubeconfig, or no such context.
        """
        if context is None and _is_inside():
            return cls(None, namespace or _OWN_NAMESPACE.read_text(encoding="utf-8").strip())
        contexts, active = _contexts()
        if context is not None and context not in contexts:
            raise UnknownNameError("context of the kubeconfig", context, contexts)
        chosen = contexts[context] if context is not None else active
        return cls(chosen["name"], namespace or chosen["context"].get("namespace") or "default")

    def note(self, launch: Launch) -> None:
        """Write it down in the launch's folder; it holds no secret."""
        write_text(launch.folder / _RECORD, json.dumps(asdict(self)))

    def client(self) -> Any:
        """A client of the official package, which reads certificates and logs in as the kubeconfig says.

        Raises:
            MissingExtraError: it is not installed. SurgeError: the kubeconfig cannot be used.
        """
        config, client = (
            require("kubernetes.config", "kubernetes"),
            require("kubernetes.client", "kubernetes"),
        )
        settings = client.Configuration()
        settings.retries = 1
        with _read_with_care(config.ConfigException):
            if self.context is None:
                config.load_incluster_config(client_configuration=settings)
                return client.ApiClient(settings)
            return config.new_client_from_config(_files(), self.context, client_configuration=settings)


def _is_inside() -> bool:
    """Whether this is a pod without a kubeconfig of its own."""
    given = "KUBECONFIG" in os.environ or Path(_files()).is_file()
    return not given and "KUBERNETES_SERVICE_HOST" in os.environ and _OWN_NAMESPACE.is_file()


def _files() -> str:
    """The kubeconfig, or several with ':' between; the client itself looks only once, when it is imported."""
    return os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")


def _contexts() -> tuple[dict[str, Any], dict[str, Any]]:
    """The contexts by name, and the current one."""
    config = require("kubernetes.config", "kubernetes")
    with _read_with_care(config.ConfigException):
        contexts, active = config.list_kube_config_contexts(_files())
        named = {str(context["name"]): dict(context) for context in contexts}
    if not active:
        raise SurgeError(
            "the kubeconfig has no current context.", "Choose one: kubectl config use-context NAME"
        )
    return named, active


@contextmanager
def _read_with_care(refusal: type[Exception]) -> Iterator[None]:
    """The client trusts the form of what it reads, and its errors may show parts of it: tokens stand there too."""
    try:
        yield
    except refusal as error:
        raise SurgeError(
            f"there is no cluster to talk to: {one_line(error).rstrip('.')}.", _CONFIG_HINT
        ) from error
    except OSError as error:
        raise SurgeError(
            f"the kubeconfig cannot be read: {error.strerror or error}.", _CONFIG_HINT
        ) from error
    except (yaml.YAMLError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise SurgeError(f"what stands in {_files()!r} is no kubeconfig.", _CONFIG_HINT) from error
