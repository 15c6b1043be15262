"""Words that training scripts of any kind use for the same things, and how a name is compared with them."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Words of what is done beside training: `eval.batch_size` is no batch size of an optimizer step.
EVALUATION = frozenset({
    "eval", "evaluation", "val", "valid", "validation", "dev", "test", "inference", "predict", "generation",
})  # fmt: skip
_WORD = re.compile(r"[._ ]+")

#: Settings, best first; an optimizer's own (`optim.lr`, `args.lr`) are found by their ending.
LR = (
    "lr",
    "learning_rate",
    "max_lr",
    "peak_lr",
    "base_lr",
    "lr_max",
    "max_learning_rate",
    "peak_learning_rate",
)
SEED = ("seed", "random_seed", "global_seed", "rng_seed", "manual_seed", "init_seed", "data_seed")
#: Settings that can only mean the batch of one optimizer step, all processes together.
GLOBAL_BATCH = (
    "global_batch_size", "global_train_batch_size", "total_batch_size", "total_train_batch_size",
    "effective_batch_size",
)  # fmt: skip
#: Settings that mean it only where there is one process and no accumulation.
PLAIN_BATCH = ("batch_size", "train_batch_size", "batchsize", "bs")
#: Settings that are the batch of one backward pass on one device.
MICRO_BATCH = (
    "per_device_train_batch_size", "micro_batch_size", "micro_batch", "device_batch_size", "per_device_batch_size",
    "train_micro_batch_size_per_gpu", "device_train_batch_size", "local_batch_size",
)  # fmt: skip
ACCUMULATION = (
    "gradient_accumulation_steps", "grad_accum_steps", "accumulate_grad_batches", "grad_accumulation_steps",
    "gradient_accumulation", "gradient_accumulation_iters", "accumulation_steps", "grad_accum", "accum_steps",
)  # fmt: skip
SEQUENCE_LENGTH = (
    "sequence_length", "seq_length", "seq_len", "max_seq_len", "max_seq_length", "max_sequence_length", "block_size",
    "context_length",
)  # fmt: skip

#: Metrics that count optimizer steps and nothing else. `iteration` and `batch` count micro batches just as often.
STEPS = (
    "optimizer_step", "optimizer_steps", "optim_step", "opt_step", "num_updates", "train/global_step",
    "trainer/global_step", "global_step", "train/step", "step",
)  # fmt: skip
EXAMPLES = (
    "examples", "samples", "num_examples", "num_samples", "examples_seen", "samples_seen", "n_examples", "n_samples",
    "consumed_samples", "consumed_train_samples", "total_samples", "train/samples", "train/examples",
)  # fmt: skip
TOKENS = (
    "tokens", "tokens_seen", "total_tokens", "num_tokens", "n_tokens", "ntokens_seen", "consumed_tokens",
    "train/tokens", "train/total_tokens", "train/num_input_tokens_seen",
)  # fmt: skip

#: Metrics that count epochs.
EPOCH_COUNTS = frozenset({"epoch", "epochs", "train/epoch", "trainer/epoch", "current_epoch", "epoch_num"})
#: Settings of how long a run is: in epochs, in optimizer steps.
EPOCHS = (
    "epochs", "num_epochs", "n_epochs", "max_epochs", "num_train_epochs", "nb_epochs", "total_epochs", "train_epochs",
    "epoch", "n_epoch",
)  # fmt: skip
MAX_STEPS = (
    "max_steps", "num_steps", "n_steps", "total_steps", "train_steps", "training_steps", "max_train_steps",
    "num_train_steps", "num_training_steps", "total_training_steps", "max_updates", "num_updates", "total_updates",
    "steps",
)  # fmt: skip

#: Metrics that look as if they counted something, for error messages.
LOOKS_LIKE_COUNTER = re.compile(
    r"(^|[/_. -])(step|steps|iter|iters|iteration|iterations|batch|batches|update|updates|epoch|epochs|examples|"
    r"samples|sequences|tokens)($|[/_. -])",
    re.IGNORECASE,
)


def canonical(name: str) -> str:
    """A setting's name as the tables of this package have it.

    >>> canonical("Trainer/grad-accum"), canonical("optim.LR")
    ('trainer.grad_accum', 'optim.lr')
    """
    return name.lower().replace("/", ".").replace("-", "_")


def matching(names: Iterable[str], key: str) -> list[str]:
    """The settings called `key`; where none is, those that end in it after a dot; sorted.

    >>> matching(["args.lr", "optim/lr", "min_lr"], "lr"), matching(["lr", "optim.lr"], "lr")
    (['args.lr', 'optim/lr'], ['lr'])
    """
    found = all_matching(names, key)
    return [name for name in found if canonical(name) == key] or found


def all_matching(names: Iterable[str], key: str) -> list[str]:
    """The settings called `key`, then those that end in it after a dot, unless they are of the evaluation.

    >>> all_matching(["optim.lr", "lr", "val.lr"], "lr")
    ['lr', 'optim.lr']
    """
    forms = sorted((canonical(name) != key, name) for name in names if _called(canonical(name), key))
    return [name for _, name in forms]


def _called(form: str, key: str) -> bool:
    parents = form.removesuffix(key)
    return form == key or (form.endswith(f".{key}") and EVALUATION.isdisjoint(_WORD.split(parents)))
