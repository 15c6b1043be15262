"""The points of a sweep: all cells of a grid once, or draws without end."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

from wandb_server.registry import GraphQLError
from wandb_server.values import JsonObject

Path = tuple[str, ...]


def flat_parameters(parameters: Mapping[str, Any]) -> Iterator[tuple[Path, JsonObject]]:
    """Parameters with their path, nested ``parameters`` included."""
    for name, spec in parameters.items():
        if isinstance(spec, dict) and "parameters" in spec:
            for path, inner in flat_parameters(spec["parameters"]):
                yield (name, *path), inner
        else:
            yield (name,), spec


def nested(values: Mapping[Path, Any]) -> JsonObject:
    """Values by path as nested dictionaries.

    >>> nested({("optim", "lr"): 0.1, ("seed",): 0})
    {'optim': {'lr': 0.1}, 'seed': 0}
    """
    point: JsonObject = {}
    for path, value in values.items():
        inner = point
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = value
    return point


def grid(config: JsonObject) -> list[JsonObject]:
    """All cells of a grid sweep.

    >>> grid({"parameters": {"lr": {"values": [0.1, 0.2]}, "seed": {"value": 0}}})
    [{'lr': 0.1, 'seed': 0}, {'lr': 0.2, 'seed': 0}]
    """
    axes: list[tuple[Path, list[Any]]] = []
    for path, spec in sorted(flat_parameters(config.get("parameters", {})), key=lambda item: item[0]):
        if "values" not in spec and "value" not in spec:
            raise GraphQLError(f"grid search needs value or values for {'.'.join(path)}")
        axes.append((path, spec["values"] if "values" in spec else [spec["value"]]))
    paths = [path for path, _ in axes]
    return [
        nested(dict(zip(paths, cell, strict=True)))
        for cell in itertools.product(*(values for _, values in axes))
    ]


def draws(config: JsonObject, seed: int) -> Iterator[JsonObject]:
    """Points of a random or bayes sweep, drawn at random, without end."""
    generator = random.Random(seed)
    parameters = list(flat_parameters(config.get("parameters", {})))
    while True:
        yield nested({path: draw(spec, generator) for path, spec in parameters})


def draw(spec: JsonObject, generator: random.Random) -> Any:
    """One value of one parameter."""
    if "value" in spec:
        return spec["value"]
    if "values" in spec:
        return generator.choice(spec["values"])
    low, high = spec["min"], spec["max"]
    kind = spec.get("distribution") or (
        "int_uniform" if isinstance(low, int) and isinstance(high, int) else "uniform"
    )
    if kind == "int_uniform":
        return generator.randint(low, high)
    if kind == "uniform":
        return generator.uniform(low, high)
    if kind == "log_uniform_values":
        return math.exp(generator.uniform(math.log(low), math.log(high)))
    raise GraphQLError(f"distribution {kind} is not supported here")
