"""The container of a pod as a process: its volumes are folders here, and paths that name them are made to."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

_LAST_WORDS_BYTES = 2048


class PodProcess:
    """The one container of a pod.

    Args:
        spec: of the pod. index: of the task. folder: of this pod alone. claims: of the volumes that outlive pods.
        configs, secrets: contents of ConfigMaps and Secrets by name.

    Attributes:
        log: what it prints.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        index: int,
        folder: Path,
        claims: Path,
        configs: Mapping[str, Mapping[str, str]],
        secrets: Mapping[str, Mapping[str, str]],
    ) -> None:
        (container,) = spec["containers"]
        folder.mkdir(parents=True)
        self.log = folder / "log"
        volumes = {item["name"]: _volume(item, folder, claims, configs) for item in spec["volumes"]}
        self._places = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        for mount in container["volumeMounts"]:
            if "subPath" in mount:
                inside = self._local(str(PurePosixPath(mount["mountPath"]).parent))
                shutil.copy(volumes[mount["name"]] / mount["subPath"], inside)
        # Nothing of the test's own environment reaches a pod, but where programs are found.
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
        }
        for source in container.get("envFrom", ()):
            environment |= secrets[source["secretRef"]["name"]]
        environment |= {item["name"]: self._local(item["value"]) for item in container["env"]}
        environment["JOB_COMPLETION_INDEX"] = str(index)
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [self._local(argument) for argument in container["command"]],
                cwd=container["workingDir"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._started_s = time.monotonic()
        self._asked_s: float | None = None

    @property
    def age_s(self) -> float:
        """Since it began."""
        return time.monotonic() - self._started_s

    @property
    def exit_code(self) -> int | None:
        """As a container's: 128 and the signal where one ended it; None while it runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def terminate(self) -> None:
        """Ask it to end, once."""
        if self._asked_s is None:
            self._asked_s = time.monotonic()
            self._process.terminate()

    def kill_after(self, grace_s: float) -> None:
        """Kill it where it was asked longer ago."""
        if self._asked_s is not None and time.monotonic() - self._asked_s > grace_s:
            self.kill()

    def kill(self) -> None:
        """End it and what it started, which is all in its session."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def last_words(self) -> str:
        """The end of what it printed."""
        return self.log.read_bytes()[-_LAST_WORDS_BYTES:].decode(errors="replace")

    def _local(self, text: str) -> str:
        for path, folder in sorted(self._places.items(), reverse=True):
            if text == path or text.startswith(f"{path}/"):
                return str(folder) + text[len(path) :]
        return text


def _volume(
    volume: dict[str, Any], folder: Path, claims: Path, configs: Mapping[str, Mapping[str, str]]
) -> Path:
    if "persistentVolumeClaim" in volume:
        place = claims / str(volume["persistentVolumeClaim"]["claimName"])
    else:
        place = folder / "volumes" / str(volume["name"])
    place.mkdir(parents=True, exist_ok=True)
    config = volume.get("configMap")
    if config is not None:
        if config["name"] not in configs and not config.get("optional"):
            raise AssertionError(f"there is no ConfigMap {config['name']!r}")
        for name, text in configs.get(config["name"], {}).items():
            (place / name).write_text(text)
    return place
