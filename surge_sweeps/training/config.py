"""The settings of one training run, checked before anything is trained.

Names are the ones that sweeps, command-line flags and run records use (`lr`, `batch_size`, `beta1`, ...), so that a
trial means the same thing wherever it is written down. A value of the wrong kind is refused, never converted: YAML
reads `1e-3` as a string, and a string that slips through would be a run with settings nobody asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

from surge_sweeps.errors import TrainingError, UnknownNameError
from surge_sweeps.trackers.base import Scalar
from surge_sweeps.training.compilation import check_backend, is_compiled
from surge_sweeps.training.learning_rate import multiplier
from surge_sweeps.training.optimizers import HYPER_PARAMETERS, optimizer_spec
from surge_sweeps.training.precision import check_precision
from surge_sweeps.training.scaling import effective_hyper_parameters
from surge_sweeps.training.workloads import DEFAULT_MODEL, check_workload
from surge_sweeps.training.workloads.base import Settings

#: What applies only where it is given, in the order of records.
_OPTIONS = (
    "precision",
    "compile",
    "schedule",
    "warmup_steps",
    "warmup_examples",
    "beta2_half_life_examples",
    "beta2_half_life_tokens",
    "weight_decay_batch_size",
    "max_steps",
    "max_examples",
    "target_loss",
    "steps_after_target",
    "log_points",
    "init_from",
)
_TEXT = (
    "workload",
    "model",
    "optimizer",
    "precision",
    "compile",
    "schedule",
    "init_from",
    "data",
    "eval_data",
    "tokenizer",
)
_REAL = ("lr", *HYPER_PARAMETERS, "beta2_half_life_examples", "beta2_half_life_tokens", "target_loss")
_OPTIONAL = (*Settings.names(), *HYPER_PARAMETERS, *_OPTIONS)

#: Smallest and largest value of each number; the second flag says whether the smallest itself is allowed.
_RANGES: dict[str, tuple[float, bool, float]] = {
    "lr": (0.0, False, math.inf),
    "batch_size": (1, True, math.inf),
    "seed": (0, True, math.inf),
    "beta1": (0.0, True, 1.0),
    "beta2": (0.0, True, 1.0),
    "momentum": (0.0, True, 1.0),
    "eps": (0.0, True, math.inf),
    "weight_decay": (0.0, True, math.inf),
    "warmup_steps": (0, True, math.inf),
    "warmup_examples": (0, True, math.inf),
    "beta2_half_life_examples": (0.0, False, math.inf),
    "beta2_half_life_tokens": (0.0, False, math.inf),
    "weight_decay_batch_size": (1, True, math.inf),
    "max_steps": (1, True, math.inf),
    "max_examples": (1, True, math.inf),
    "steps_after_target": (1, True, math.inf),
    "log_points": (2, True, math.inf),
    **dict.fromkeys(Settings.names(), (1, True, math.inf)),
    "shared_experts": (0, True, math.inf),
    "target_loss": (-math.inf, False, math.inf),
}


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One training run.

    Attributes:
        lr: learning rate, > 0; its highest where a schedule or a warm-up changes it.
        batch_size: examples per optimizer step; may exceed the size of the data set.
        workload, model, optimizer: names; see `surge_sweeps.training.workloads` and `.optimizers`.
        seed: decides the initial parameters (unless `init_from`) and the order of the examples.
        data, eval_data, sequence_length, tokenizer, layers, width, heads, experts, shared_experts, experts_per_token:
            of the workload and its model, see `Settings`; None is their own default.
        beta1, beta2, eps, momentum, weight_decay: None is the optimizer's own default.
        precision: see `surge_sweeps.training.precision`; None: 32 bits.
        compile: see `surge_sweeps.training.compilation`; None: not at all.
        schedule, warmup_steps, warmup_examples: of the learning rate, see `surge_sweeps.training.learning_rate`; None:
            it is constant.
        beta2_half_life_examples, beta2_half_life_tokens, weight_decay_batch_size: let beta2 and the weight decay follow
            the batch size, see `surge_sweeps.training.scaling`; None: they do not.
        max_steps, max_examples: the run ends at whichever comes first, after a whole batch; at least one is needed.
        target_loss: stop at the first logged step whose `eval/loss` is at or below it.
        steps_after_target: go on for so many steps after that one (Li et al. 2024, section 3.3).
        log_points: at most so many points are logged, each an evaluation, of the run and of the steps after its target;
            None: see `log_steps`.
        init_from: checkpoint file to start from, with fresh optimizer state.

    Raises:
        TrainingError: a value of the wrong kind or out of range, no budget, or a hyper-parameter that the optimizer
            does not take.
        UnknownNameError: unknown workload, model, optimizer, precision or compile.

    >>> config = TrialConfig(lr=0.1, batch_size=32, optimizer="momentum", max_examples=1000)
    >>> config.steps, config.resolved().momentum
    (32, 0.9)
    """

    lr: float
    batch_size: int
    workload: str = "digits"
    model: str = DEFAULT_MODEL
    optimizer: str = "adamw"
    seed: int = 0
    data: str | None = None
    eval_data: str | None = None
    sequence_length: int | None = None
    tokenizer: str | None = None
    layers: int | None = None
    width: int | None = None
    heads: int | None = None
    experts: int | None = None
    shared_experts: int | None = None
    experts_per_token: int | None = None
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    precision: str | None = None
    compile: str | None = None
    schedule: str | None = None
    warmup_steps: int | None = None
    warmup_examples: int | None = None
    beta2_half_life_examples: float | None = None
    beta2_half_life_tokens: float | None = None
    weight_decay_batch_size: int | None = None
    max_steps: int | None = None
    max_examples: int | None = None
    target_loss: float | None = None
    steps_after_target: int | None = None
    log_points: int | None = None
    init_from: str | None = None

    def __post_init__(self) -> None:
        for name in self.names():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            _check_kind(name, value)
            if name not in _TEXT:
                _check_range(name, value)
            if name in _REAL:
                object.__setattr__(self, name, float(value))
        settings = self.settings
        if self.beta2 is not None and self._has_half_life():
            raise TrainingError("beta2 and a half-life of it are given.", "Give one of the two.")
        self._check_hyper_parameters()
        self._check_budget()
        check_precision(self.precision)
        self._check_compile()
        self.lr_multiplier(0)
        self._scaled(settings)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The valid parameter names."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, object]) -> TrialConfig:
        """The configuration of a sweep's trial or a parsed command line.

        Raises:
            UnknownNameError: a key that is no parameter; the message lists the valid ones.
            TrainingError: `lr` or `batch_size` is missing, or a value cannot be used.

        >>> TrialConfig.from_parameters({"lr": 0.1, "batch_size": 8, "max_steps": 5, "optimizer": "sgd"}).steps
        5
        >>> TrialConfig.from_parameters({"lr": "1e-3", "batch_size": 8, "max_steps": 5})
        Traceback (most recent call last):
        ...
        surge_sweeps.errors.TrainingError: lr is the string '1e-3', not a number.
            Write it without quotes and with a point, as YAML wants it: 0.001.
        """
        for name in parameters:
            if name not in cls.names():
                raise UnknownNameError("parameter", str(name), cls.names())
        for name in ("lr", "batch_size"):
            if name not in parameters:
                raise TrainingError(f"{name} is missing.", "Every trial needs lr and batch_size.")
        values: dict[str, object] = dict(parameters)
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ checks every kind

    @property
    def steps(self) -> int:
        """Optimizer steps in the budget: `max_steps`, or the first step at which `max_examples` are seen."""
        limits = [] if self.max_steps is None else [self.max_steps]
        if self.max_examples is not None:
            limits.append(-(-self.max_examples // self.batch_size))
        return min(limits)

    @property
    def settings(self) -> Settings:
        """Of the workload and its model, their defaults filled in.

        Raises:
            UnknownNameError: unknown workload or model.
            TrainingError: one that is missing, or that they do not take.
        """
        given = Settings(**{name: getattr(self, name) for name in Settings.names()})
        return check_workload(self.workload, self.model, given)

    @property
    def has_constant_lr(self) -> bool:
        """Whether every step has the same learning rate."""
        return self.schedule in (None, "constant") and not (self.warmup_steps or self.warmup_examples)

    def lr_multiplier(self, step: int) -> float:
        """The share of `lr` that the update after `step` steps takes, see `learning_rate.multiplier`."""
        return multiplier(
            self.schedule or "constant",
            step,
            batch_size=self.batch_size,
            steps=self.steps,
            warmup_steps=self.warmup_steps,
            warmup_examples=self.warmup_examples,
        )

    def resolved(self) -> TrialConfig:
        """The same run with every default filled in of the optimizer, the workload and its model."""
        settings = {name: value for name, value in asdict(self.settings).items() if value is not None}
        filled = {**self._stated_hyper_parameters(), **settings}
        return replace(self, **filled)

    def hyper_parameters(self) -> dict[str, float]:
        """The optimizer's hyper-parameters but the learning rate, defaults filled in, as this batch size has them."""
        return self._scaled(self.settings)

    def record(self) -> dict[str, Scalar]:
        """The run record's configuration: plain scalars, only what applies to this run.

        >>> TrialConfig(lr=0.1, batch_size=8, optimizer="sgd", max_steps=9).record()
        {'workload': 'digits', 'model': 'mlp', 'optimizer': 'sgd', 'lr': 0.1, 'batch_size': 8, 'seed': 0,
         'weight_decay': 0.0, 'max_steps': 9}
        """
        config: dict[str, Scalar] = {
            name: getattr(self, name)
            for name in ("workload", "model", "optimizer", "lr", "batch_size", "seed")
        }
        config |= {name: value for name, value in asdict(self.settings).items() if value is not None}
        # As they are given: what follows the batch size would make each batch size an experiment of its own.
        config.update(self._stated_hyper_parameters())
        config |= {name: getattr(self, name) for name in _OPTIONS if getattr(self, name) is not None}
        return config

    def summary(self) -> dict[str, Scalar]:
        """What the batch size makes of the hyper-parameters that follow it, as `used_NAME`; empty where none does.

        >>> config = TrialConfig(lr=0.1, batch_size=8, max_steps=9, beta2_half_life_examples=8.0)
        >>> "beta2" in config.record(), config.summary()
        (False, {'used_beta2': 0.5})
        """
        stated = self._stated_hyper_parameters()
        used = self.hyper_parameters()
        return {f"used_{name}": value for name, value in used.items() if value != stated.get(name)}

    def _stated_hyper_parameters(self) -> dict[str, float]:
        """Those that are the same at every batch size, and the weight decay of one batch size."""
        stated = self._given_hyper_parameters()
        if self._has_half_life():
            del stated["beta2"]
        return stated

    def _has_half_life(self) -> bool:
        return self.beta2_half_life_examples is not None or self.beta2_half_life_tokens is not None

    def _given_hyper_parameters(self) -> dict[str, float]:
        defaults = optimizer_spec(self.optimizer).defaults
        given = {name: getattr(self, name) for name in defaults if getattr(self, name) is not None}
        return {**defaults, **given}

    def _scaled(self, settings: Settings) -> dict[str, float]:
        return effective_hyper_parameters(
            self._given_hyper_parameters(),
            batch_size=self.batch_size,
            tokens_per_example=settings.sequence_length,
            beta2_half_life_examples=self.beta2_half_life_examples,
            beta2_half_life_tokens=self.beta2_half_life_tokens,
            weight_decay_batch_size=self.weight_decay_batch_size,
            beta2_every_steps=optimizer_spec(self.optimizer).beta2_every_steps,
        )

    def _check_hyper_parameters(self) -> None:
        taken = tuple(optimizer_spec(self.optimizer).defaults)
        for name in HYPER_PARAMETERS:
            if getattr(self, name) is not None and name not in taken:
                raise TrainingError(
                    f"the optimizer {self.optimizer!r} takes no {name}.",
                    f"It takes: {', '.join(('lr', *taken))}.",
                )

    def _check_compile(self) -> None:
        check_backend(self.compile)
        if is_compiled(self.compile) and not optimizer_spec(self.optimizer).can_accumulate:
            raise TrainingError(
                f"the optimizer {self.optimizer!r} looks into the backward pass, which is compiled as one piece.",
                "Leave compile out, or take another optimizer.",
            )

    def _check_budget(self) -> None:
        if self.max_steps is None and self.max_examples is None:
            raise TrainingError("the run has no end.", "Give max_steps, max_examples or both.")
        if self.steps_after_target is not None and self.target_loss is None:
            raise TrainingError(
                "steps_after_target is given without a target_loss.", "Give both, or neither."
            )


def _check_kind(name: str, value: object) -> None:
    if name in _TEXT:
        if not isinstance(value, str):
            raise TrainingError(f"{name} is {value!r}, not a name.", f"Give {name} as text.")
        return
    if isinstance(value, str):
        raise TrainingError(f"{name} is the string {value!r}, not a number.", _mended(value))
    if isinstance(value, bool) or not isinstance(value, (int, float) if name in _REAL else int):
        kind = "a number" if name in _REAL else "a whole number"
        raise TrainingError(f"{name} is {value!r}, not {kind}.", f"Give {name} as {kind}.")


def _mended(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return "Give a number."
    return f"Write it without quotes and with a point, as YAML wants it: {number!r}."


def _check_range(name: str, value: float) -> None:
    low, low_allowed, high = _RANGES[name]
    if not math.isfinite(value) or value < low or (value == low and not low_allowed) or value >= high:
        bound = f"{'at least' if low_allowed else 'above'} {low:g}" if math.isfinite(low) else "finite"
        bound += f" and below {high:g}" if math.isfinite(high) else ""
        raise TrainingError(f"{name} is {value!r}.", f"It must be {bound}.")
