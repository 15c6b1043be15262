"""The learning rate x batch size x seed grid, in W&B's sweep YAML: the only sweep format.

A `Sweep` is a plain value. It knows its trials, their stable ids and what they cost in examples before anything runs,
and it survives a round trip through `yaml.safe_load`. PyYAML reads `1e-3` as text: such a value is refused here, with
the line that mends it, before it reaches an optimizer as a string.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from surge_sweeps.axes import distinct
from surge_sweeps.errors import SurgeError, SweepFileError, UnknownNameError
from surge_sweeps.files import write_text

Scalar = str | int | float | bool

AXES = ("lr", "batch_size", "seed")
#: Keys that W&B's sweep schema allows at the top level.
TOP_LEVEL_KEYS = (
    "apiVersion", "command", "controller", "description", "early_terminate", "entity", "image_uri", "job", "kind",
    "method", "metric", "name", "parameters", "program", "project", "run_cap", "scheduler",
)  # fmt: skip
#: How an agent calls a user's script: `python train.py --lr=0.001 --batch_size=32 --seed=0 ...`.
SCRIPT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
#: How an agent calls the built-in trainer.
BUILTIN_COMMAND = ("${env}", "${interpreter}", "-m", "surge_sweeps.training", "${args}")

#: Beyond this no number is a learning rate, a batch size or a seed, and whole ones no longer fit a float.
_LARGEST = 2**53
_PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NUMBER_AS_TEXT = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")


def trial_id(parameters: Mapping[str, Scalar]) -> str:
    """The stable id of a trial: 12 hex digits of a hash over its canonical parameters, seed included.

    Key order does not matter, nor whether a whole number is written 8 or 8.0.

    >>> trial_id({"lr": 0.1, "seed": 0}) == trial_id({"seed": 0.0, "lr": 0.1})
    True
    """
    canonical = {key: _canonical(value) for key, value in parameters.items()}
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _canonical(value: Scalar) -> Scalar:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


@dataclass(frozen=True)
class Trial:
    """One run to do.

    Attributes:
        parameters: everything it is called with, the axes `lr`, `batch_size` and `seed` included.
        script: what is called, for a user's own script; empty for the built-in trainer.
    """

    parameters: Mapping[str, Scalar]
    script: str = ""

    @property
    def trial_id(self) -> str:
        """See `trial_id`; two scripts called with the same parameters are two trials."""
        return trial_id({**self.parameters, " script": self.script} if self.script else self.parameters)

    @property
    def lr(self) -> float:
        """Learning rate."""
        return float(self.parameters["lr"])

    @property
    def batch_size(self) -> int:
        """Global batch size."""
        return int(self.parameters["batch_size"])

    @property
    def seed(self) -> int:
        """Seed."""
        return int(self.parameters["seed"])

    @property
    def cost_examples(self) -> int | None:
        """Examples this trial sees at most; None when neither `max_steps` nor `max_examples` bounds it.

        >>> Trial({"lr": 0.1, "batch_size": 8, "seed": 0, "max_steps": 100, "max_examples": 500}).cost_examples
        504
        """
        bounds = []
        if "max_steps" in self.parameters:
            bounds.append(int(self.parameters["max_steps"]) * self.batch_size)
        if "max_examples" in self.parameters:
            bounds.append(math.ceil(int(self.parameters["max_examples"]) / self.batch_size) * self.batch_size)
        return min(bounds) if bounds else None


@dataclass(frozen=True)
class Sweep:
    """A grid over learning rate, batch size and seed; everything else is constant.

    Attributes:
        lr, batch_size, seed: the axes; every combination is a trial.
        constants: the parameters that all trials share.
        command: how to call a trial, one argument an item, with W&B's macros (`${args}` and so on).
        program: the user's script; None where `command` names everything.
        name: shown by the tracker. loss: the metric the sweep is about, to be minimised.
        extra: W&B's other top-level keys (`project`, `entity`, ...), kept as they are.

    >>> sweep = Sweep(lr=(0.001, 0.01), batch_size=(8, 16), seed=(0,), constants={"max_steps": 100})
    >>> len(sweep.trials()), sweep.cost_examples()
    (4, 4800)
    >>> Sweep.from_yaml(sweep.to_yaml()) == sweep
    True
    """

    lr: tuple[float, ...]
    batch_size: tuple[int, ...]
    seed: tuple[int, ...]
    constants: Mapping[str, Scalar] = field(default_factory=dict)
    command: tuple[str, ...] = BUILTIN_COMMAND
    program: str | None = None
    name: str = "surge"
    loss: str = "eval/loss"
    extra: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for axis in AXES:
            values = getattr(self, axis)
            if not values:
                raise SweepFileError(f"the sweep {self.name!r} has no values for {axis}.")
            distinct(values, axis)
        if not all(value > 0 and math.isfinite(value) for value in self.lr):
            raise SweepFileError("every learning rate must be positive.", f"It has: {list(self.lr)}.")
        if not all(value >= 1 for value in self.batch_size):
            raise SweepFileError("every batch size must be 1 or more.", f"It has: {list(self.batch_size)}.")
        for name, value in self.constants.items():
            if name in AXES:
                raise SweepFileError(
                    f"{name!r} is an axis of the sweep, not a constant.", f"Give it as values of {name}."
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise SweepFileError(f"the value of {name!r} is {value!r}.", "Give a finite number.")
            if not _PARAMETER_NAME.fullmatch(name):
                raise SweepFileError(
                    f"{name!r} is not a parameter name W&B takes.", "Use letters, digits, '_', '.' and '-'."
                )

    def trials(self) -> list[Trial]:
        """Every trial, batch size outermost, then learning rate, then seed."""
        return list(self._each_trial())

    def _each_trial(self) -> Iterator[Trial]:
        script = "" if self.is_builtin else json.dumps([*self.command, self.program])
        for batch_size in self.batch_size:
            for lr in self.lr:
                for seed in self.seed:
                    axes = {"lr": lr, "batch_size": batch_size, "seed": seed}
                    yield Trial({**self.constants, **axes}, script)

    @property
    def sweep_id(self) -> str:
        """Stable id: the same grid with the same constants and command is the same sweep, whatever its name."""
        content = sorted(trial.trial_id for trial in self._each_trial())
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    @property
    def is_builtin(self) -> bool:
        """Whether the trials call the built-in trainer, so that they can be trained together in one process."""
        return self.command == BUILTIN_COMMAND

    def cost_examples(self) -> int | None:
        """Examples all trials see at most; None when a trial's budget is not stated in the sweep."""
        costs = [trial.cost_examples for trial in self._each_trial()]
        return None if None in costs else sum(cast(list[int], costs))

    def to_dict(self) -> dict[str, Any]:
        """The sweep as W&B takes it."""
        program = {"program": self.program} if self.program is not None else {}
        parameters: dict[str, Any] = {name: {"value": value} for name, value in self.constants.items()}
        parameters |= {axis: {"values": list(getattr(self, axis))} for axis in AXES}
        return {
            "name": self.name,
            **self.extra,
            "method": "grid",
            "metric": {"name": self.loss, "goal": "minimize"},
            **program,
            "command": list(self.command),
            "parameters": parameters,
        }

    def to_yaml(self) -> str:
        """The sweep file's text: `wandb sweep FILE` takes it as it stands."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None, width=100)

    def write(self, path: Path, *, header: str = "") -> None:
        """Write the sweep file, atomically, with `header` as comment lines on top."""
        comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
        write_text(path, comment + self.to_yaml())

    @classmethod
    def read(cls, path: Path) -> Sweep:
        """Read a sweep file.

        Raises:
            SweepFileError: missing, not YAML, or not a grid over lr, batch_size and seed; the hint mends it.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise SweepFileError(
                f"there is no sweep file {str(path)!r}.", "Write one with: surge-sweep new --help"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise SweepFileError(f"the sweep file {str(path)!r} cannot be read: {error}.") from error
        try:
            return cls.from_yaml(text)
        except SurgeError as error:
            raise SweepFileError(f"{path}: {error.what}", error.hint) from error

    @classmethod
    def from_yaml(cls, text: str) -> Sweep:
        """Read the text of a sweep file. Raises `SweepFileError`, see `read`."""
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SweepFileError(f"not valid YAML: {' '.join(str(error).split())}.") from error
        return _SweepReader(text).sweep(data)


class _SweepReader:
    """Turns parsed YAML into a `Sweep`; keeps the text so that a refused value can be shown with its line."""

    def __init__(self, text: str) -> None:
        self._text = text

    def sweep(self, data: object) -> Sweep:
        if not isinstance(data, dict):
            raise SweepFileError("not a sweep: the file must hold keys such as 'method' and 'parameters'.")
        for key in data:
            if key not in TOP_LEVEL_KEYS:
                raise UnknownNameError("top-level key", str(key), TOP_LEVEL_KEYS)
        if data.get("method") != "grid":
            raise SweepFileError(
                f"method is {data.get('method')!r}.", "A surge sweep is a grid: write 'method: grid'."
            )
        if "early_terminate" in data:
            raise SweepFileError(
                "early_terminate cuts loss curves short, which biases every fit.",
                "Remove the key early_terminate.",
            )
        parameters = data.get("parameters")
        if not isinstance(parameters, dict):
            raise SweepFileError(
                "there are no 'parameters'.", "Add lr, batch_size and seed, each with 'values'."
            )
        for axis in AXES:
            if axis not in parameters:
                raise SweepFileError(
                    f"the parameter {axis!r} is missing.", f"Add '{axis}: {{values: [...]}}'."
                )
        constants = {
            str(name): self._constant(str(name), spec)
            for name, spec in parameters.items()
            if name not in AXES
        }
        if "run_cap" in data:
            raise SweepFileError("run_cap would leave trials of the grid out.", "Remove the key run_cap.")
        known = ("name", "method", "metric", "program", "command", "parameters")
        return Sweep(
            lr=tuple(float(value) for value in self._axis("lr", parameters["lr"])),
            batch_size=tuple(self._whole("batch_size", parameters["batch_size"])),
            seed=tuple(self._whole("seed", parameters["seed"])),
            constants=constants,
            command=self._command(data),
            program=str(data["program"]) if data.get("program") is not None else None,
            name=str(data.get("name", "surge")),
            loss=self._loss(data.get("metric")),
            extra={key: value for key, value in data.items() if key not in known},
        )

    def _loss(self, metric: object) -> str:
        if metric is None:
            return "eval/loss"
        if (
            not isinstance(metric, dict)
            or "name" not in metric
            or metric.get("goal", "minimize") != "minimize"
        ):
            raise SweepFileError(
                f"'metric' is {metric!r}.",
                "Write 'metric: {name: eval/loss, goal: minimize}': a loss to minimise.",
            )
        return str(metric["name"])

    def _command(self, data: Mapping[str, object]) -> tuple[str, ...]:
        command = data.get("command")
        if command is None:
            if data.get("program") is None:
                raise SweepFileError(
                    "neither 'program' nor 'command' says what to run.", "Add 'program: train.py'."
                )
            return SCRIPT_COMMAND
        if not isinstance(command, list) or not all(isinstance(item, str) for item in command):
            raise SweepFileError("'command' must be a list of texts.", "Write one argument an item.")
        return tuple(command)

    def _axis(self, name: str, spec: object) -> Sequence[int | float]:
        if not isinstance(spec, dict) or set(spec) not in ({"values"}, {"value"}):
            raise SweepFileError(
                f"the parameter {name!r} must have 'values', a list.",
                f"A grid lists its values: '{name}: {{values: [...]}}'.",
            )
        values = spec["values"] if "values" in spec else [spec["value"]]
        if not isinstance(values, list) or not values:
            raise SweepFileError(
                f"the values of {name!r} are not a list.", f"Write '{name}: {{values: [...]}}'."
            )
        if any(isinstance(value, str) for value in values):
            raise self._text_for_number(name, values)
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values) or any(
            abs(value) > _LARGEST for value in values
        ):
            raise SweepFileError(f"the values of {name!r} are not all numbers: {values}.")
        return values

    def _whole(self, name: str, spec: object) -> list[int]:
        values = self._axis(name, spec)
        if not all(float(value).is_integer() for value in values):
            raise SweepFileError(f"the values of {name!r} are not all whole numbers: {list(values)}.")
        return [int(value) for value in values]

    def _constant(self, name: str, spec: object) -> Scalar:
        if isinstance(spec, dict) and set(spec) == {"values"} and isinstance(spec["values"], list):
            if len(spec["values"]) != 1:
                raise SweepFileError(
                    f"{name!r} has {len(spec['values'])} values.",
                    "Only lr, batch_size and seed may vary in one sweep: write one sweep file for each value.",
                )
            spec = {"value": spec["values"][0]}
        if not isinstance(spec, dict) or set(spec) != {"value"}:
            raise SweepFileError(
                f"the parameter {name!r} is not constant.",
                f"Write '{name}: {{value: ...}}'; a grid takes no ranges or distributions.",
            )
        value = spec["value"]
        if isinstance(value, str) and _NUMBER_AS_TEXT.fullmatch(value) and re.search("[eE]", value):
            raise self._text_for_number(name, value)
        if not isinstance(value, str | int | float | bool) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise SweepFileError(
                f"the value of {name!r} is {value!r}.", "Give a finite number, a text or a boolean."
            )
        return value

    def _text_for_number(self, name: str, value: object) -> SweepFileError:
        items = value if isinstance(value, list) else [value]
        if not all(not isinstance(item, str) or _NUMBER_AS_TEXT.fullmatch(item) for item in items):
            return SweepFileError(f"the values of {name!r} are not all numbers: {items}.")
        numbers = [float(item) if isinstance(item, str) else item for item in items]
        mended = f"values: {numbers}" if isinstance(value, list) else f"value: {numbers[0]}"
        first = next(item for item in items if isinstance(item, str))
        line = self._line_of(name)
        where = f"line {line}: " if line else ""
        return SweepFileError(
            f"{where}YAML reads {first!r} in {name!r} as text, not as a number (it needs a decimal point).",
            f"Write: {name}: {{{mended}}}",
        )

    def _line_of(self, name: str) -> int | None:
        """Line of the parameter `name`, counted from 1, for the message; None when it cannot be told."""
        for parent, child in _mapping_items(yaml.compose(self._text, Loader=yaml.SafeLoader)):
            if parent == "parameters":
                for key, node in _mapping_items(child):
                    if key == name:
                        return int(node.start_mark.line) + 1
        return None


def _mapping_items(node: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), value
