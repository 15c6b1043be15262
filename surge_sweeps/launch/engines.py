"""The engines by name, each imported only when it is asked for, and what may be set for each."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.launch.base import Launcher
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.local import LocalLauncher, RecordedLocal
from surge_sweeps.launch.local_options import LocalOptions
from surge_sweeps.trackers.base import Tracker

#: Name -> module of a cluster engine, and its classes of options and launcher.
_CLUSTERS: Mapping[str, tuple[str, str, str]] = {
    "slurm": ("surge_sweeps.launch.slurm", "SlurmOptions", "SlurmLauncher"),
    "ray": ("surge_sweeps.launch.ray", "RayOptions", "RayLauncher"),
    "kubernetes": ("surge_sweeps.launch.kubernetes", "KubernetesOptions", "KubernetesLauncher"),
}
ENGINES: tuple[str, ...] = ("local", *_CLUSTERS)


class Setting(NamedTuple):
    """One thing that may be set for an engine; `kind` as Python writes it, `default` None where it must be given."""

    name: str
    kind: str
    default: str | None


def options_class(engine: str) -> type[Any]:
    """The dataclass of what may be set for an engine.

    Raises:
        UnknownNameError: no engine of that name.
    """
    if engine == "local":
        return LocalOptions
    if engine not in _CLUSTERS:
        raise UnknownNameError("engine", engine, ENGINES)
    module, options, _ = _CLUSTERS[engine]
    found: type[Any] = getattr(importlib.import_module(module), options)
    return found


def make_options(engine: str, given: Mapping[str, object]) -> Any:
    """The options of an engine from what a user gave, texts turned into what each is.

    Raises:
        UnknownNameError: no such engine or setting. SurgeError: a value that cannot be, or one that is missing.

    >>> make_options("local", {"trials_per_gpu": "2", "gpus": "all"}).trials_per_gpu
    2
    >>> make_options("local", {"trials_per_gpu": "two"})
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.SurgeError: trials_per_gpu of the engine 'local' is 'two': Input should be a valid integer, ...
    """
    kind = options_class(engine)
    names = [item.name for item in fields(kind)]
    for name in given:
        if name not in names:
            raise UnknownNameError(f"setting of the engine {engine!r}", name, names)
    try:
        return TypeAdapter(kind).validate_python(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        see = f"See: surge-sweep engines {engine}"
        if first["type"] == "missing":
            raise SurgeError(
                f"the engine {engine!r} needs {name}.", f"Give it with: --set {name}=...  {see}"
            ) from error
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, SurgeError):
            raise cause from error
        raise SurgeError(
            f"{name} of the engine {engine!r} is {first['input']!r}: {first['msg']}.", see
        ) from error


def settings(engine: str) -> list[Setting]:
    """What may be set for an engine, in the order of its documentation.

    >>> settings("local")[0].name
    'gpus'
    """
    adapter = TypeAdapter(options_class(engine))
    schema = adapter.json_schema()
    needed = schema.get("required", [])
    found = []
    for item in fields(options_class(engine)):
        default = None
        if item.name not in needed:
            default = str(schema["properties"][item.name].get("default", ""))
        found.append(Setting(item.name, str(item.type), default))
    return found


def make_launcher(engine: str, options: Any, store: Tracker, agents: int | None = None) -> Launcher:
    """The engine, ready to be handed a launch.

    Args:
        options: of `make_options`. store: where the runs go, open; the local engine writes to it. agents: of the local
            engine, tasks at a time.

    Raises:
        SurgeError: it cannot do what is asked. MissingExtraError: its package is not installed.
    """
    if engine == "local":
        return LocalLauncher(store, agents, options.gpus, options.trials_per_gpu, options.pin_cpus)
    module, _, launcher = _CLUSTERS[engine]
    made: Launcher = getattr(importlib.import_module(module), launcher)(options)
    return made


def launcher_of(launch: Launch) -> Launcher:
    """The engine that a recorded launch was handed to: enough to ask for its status, to cancel it and to read its logs.

    Raises:
        UnknownNameError: no engine of that name. MissingExtraError: its package is not installed.
    """
    engine = launch.plan.engine
    if engine == "local":
        return RecordedLocal()
    if engine not in _CLUSTERS:
        raise UnknownNameError("engine", engine, ENGINES)
    module, _, launcher = _CLUSTERS[engine]
    made: Launcher = getattr(importlib.import_module(module), launcher).of(launch)
    return made
