"""How training frameworks name what they log: one declared table, each entry with the source it was checked in.

Metrics stand as the frameworks log them. Settings stand in lower case with dots between levels; they match a setting
of that very name, or, where there is none, one that ends in it after a dot (`optimizer.lr` finds
`trainer.optimizer.lr`). The first entry whose signature a run has is the run's framework, so those that build upon
another one stand before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from surge_sweeps.trackers.naming.names import Counts, StepAxis


@dataclass(frozen=True)
class BatchKeys:
    """Settings whose product is the batch size.

    Attributes:
        keys: the factors. per_process: the product is that of one process, to be multiplied with their number.
        counts: what it counts.
    """

    keys: tuple[str, ...]
    per_process: bool = False
    counts: Counts = "examples"


@dataclass(frozen=True)
class Framework:
    """The names of one training framework.

    Attributes:
        name: as the user knows it.
        signatures: sets of metrics, each of which only this framework logs together. settings: the same for settings.
        eval_losses, train_losses: the first one that every run has is read; with none, any metric called a loss.
        eval_pattern: regular expression of further evaluation losses, one for each held-out set.
        steps: where optimizer steps are counted; the first one there is. Empty: nothing the framework logs does.
        no_steps: why, for the error message. caveat: what to know of those steps, for the report.
        given_step: on MLflow the step given with each point is the optimizer step.
        note: what to know of its loss, for the report. prunes: trials that began worse are ended early, as crashed.
        examples, tokens: metrics that count what was seen.
        lr, seed, sequence_length: settings. batch: the settings of the batch size, best first.
    """

    name: str
    signatures: tuple[frozenset[str], ...]
    settings: tuple[frozenset[str], ...] = ()
    eval_losses: tuple[str, ...] = ()
    train_losses: tuple[str, ...] = ()
    eval_pattern: str | None = None
    steps: tuple[StepAxis, ...] = (StepAxis(),)
    no_steps: str = ""
    caveat: str = ""
    given_step: bool = False
    note: str = ""
    prunes: bool = False
    examples: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    lr: tuple[str, ...] = ()
    batch: tuple[BatchKeys, ...] = ()
    seed: tuple[str, ...] = ("seed",)
    sequence_length: tuple[str, ...] = ()


LIGHTNING_BEHIND = (
    "Lightning writes one optimizer step too few beside a validation loss, so its steps may be one too low"
)


def _all(*names: str) -> frozenset[str]:
    return frozenset(names)


FRAMEWORKS: tuple[Framework, ...] = (
    # transformers/integrations/integration_utils.py: WandbCallback logs every row with train/global_step =
    # state.global_step, which counts optimizer steps, accumulation done; _step counts log calls. The configuration is
    # TrainingArguments.to_dict(), which has no number of processes (older ones log train_batch_size, which is that of
    # one process, too). MLflowCallback logs `loss` and `eval_loss` with step=state.global_step (seen in runs of 5.23);
    # its parameters are those arguments over the model's configuration. TRL and axolotl log through it.
    Framework(
        "Transformers",
        (_all("train/global_step"),),
        settings=(_all("per_device_train_batch_size", "gradient_accumulation_steps"),),
        eval_losses=("eval/loss", "eval_loss"),
        train_losses=("train/loss", "loss"),
        steps=(StepAxis("train/global_step"),),
        given_step=True,
        tokens=("train/num_input_tokens_seen", "num_input_tokens_seen"),
        lr=("learning_rate",),
        batch=(BatchKeys(("per_device_train_batch_size", "gradient_accumulation_steps"), per_process=True),),
        sequence_length=("max_seq_length", "sequence_len"),
    ),
    # NeMo megatron_gpt_model.py: consumed_samples = global_step times the global batch; rows come through
    # Lightning's logger, with its trainer/global_step.
    Framework(
        "NeMo",
        (_all("reduced_train_loss"),),
        eval_losses=("val_loss", "validation_loss"),
        train_losses=("reduced_train_loss",),
        steps=(StepAxis("trainer/global_step"), StepAxis("global_step")),
        given_step=True,
        examples=("consumed_samples",),
        lr=("optim.lr", "optimizer.lr", "optim.config.lr"),
        batch=(BatchKeys(("global_batch_size",)),),
        sequence_length=("encoder_seq_length", "seq_length"),
    ),
    # litgpt/pretrain.py: `step` counts optimizer steps, `iter` and the logger's own step count micro batches. Rows
    # with val_loss hold no `step`, so that only the training loss (mean over the accumulation) can be placed.
    Framework(
        "LitGPT",
        (_all("loss", "iter", "step", "iter_time"), _all("loss", "iter", "step", "total_tokens")),
        train_losses=("loss",),
        steps=(StepAxis("step"),),
        tokens=("total_tokens",),
        lr=("optimizer.init_args.lr", "train.learning_rate", "learning_rate"),
        batch=(BatchKeys(("train.global_batch_size",)), BatchKeys(("global_batch_size",))),
        sequence_length=("train.max_seq_length", "max_seq_length", "block_size"),
    ),
    # lightning/pytorch/loggers/wandb.py adds trainer/global_step to every row: _batches_that_stepped, the batches after
    # which an optimizer stepped (accumulation done; in manual optimization every batch). Trainer.global_step itself,
    # which some scripts log, counts each optimizer's steps. Losses and settings are called as the user likes.
    # loops/training_epoch_loop.py validates before it counts the batch, so a validation row after n steps says n - 1.
    Framework(
        "Lightning",
        (_all("trainer/global_step"),),
        steps=(StepAxis("trainer/global_step"),),
        caveat=LIGHTNING_BEHIND,
    ),
    # mlflow/pytorch/_lightning_autolog.py (seen in runs of 3.17): metrics with step=current_epoch, counted from 0; with
    # log_every_n_step those logged by training steps alone have Trainer.global_step. Parameters: `epochs`,
    # `optimizer_name` and the optimizer's own defaults; no batch size. Losses are called as the user likes.
    Framework(
        "MLflow's autologging of Lightning",
        (),
        settings=(_all("epochs", "optimizer_name", "maximize", "foreach", "differentiable"),),
        steps=(),
        no_steps="MLflow's autologging gives the epoch as the step",
        lr=("lr",),
    ),
    # mlflow/optuna/storage.py (seen in runs of 3.17 with Optuna 5.0): one nested run a trial, `intermediate_value` with
    # the step of trial.report, `value` at the end; parameters as the program has them; a pruned trial is KILLED.
    Framework(
        "Optuna",
        (_all("intermediate_value"),),
        eval_losses=("intermediate_value",),
        steps=(),
        no_steps="Optuna keeps the step that the program gave to trial.report, often the epoch",
        note="intermediate_value is whatever the program gave to trial.report: it is taken for a loss on held-out data",
        prunes=True,
    ),
    # torchtitan/components/metrics.py: wandb.log(metrics, step=step), the optimizer step since gradient accumulation
    # came. global_batch_size is -1 where it was left to the number of processes.
    Framework(
        "torchtitan",
        (_all("loss_metrics/global_avg_loss"),),
        eval_losses=("validation_metrics/loss",),
        train_losses=("loss_metrics/global_avg_loss",),
        tokens=("ntokens_seen", "n_tokens_seen"),
        lr=("optimizer.lr",),
        batch=(
            BatchKeys(("training.global_batch_size",)),
            BatchKeys(("training.local_batch_size",), per_process=True),
            BatchKeys(("training.batch_size",), per_process=True),
        ),
        seed=("training.seed", "debug.seed"),
        sequence_length=("training.seq_len",),
    ),
    # megatron/training/training.py: wandb_writer.log({...}, iteration), an iteration being an optimizer step;
    # `samples vs steps` = consumed_train_samples. The configuration is the arguments; the global batch may ramp up.
    Framework(
        "Megatron-LM",
        (_all("lm loss", "samples vs steps"), _all("lm loss", "learning-rate"), _all("lm loss validation")),
        eval_losses=("lm loss validation",),
        train_losses=("lm loss",),
        examples=("samples vs steps",),
        lr=("lr",),
        batch=(BatchKeys(("global_batch_size",)),),
        sequence_length=("seq_length",),
    ),
    # nanoGPT/train.py: one row an evaluation, both losses and `iter`, which counts optimizer steps; _step counts rows.
    # gradient_accumulation_steps is logged before it is divided among the processes, so the product is the whole batch.
    Framework(
        "nanoGPT",
        (_all("iter", "train/loss", "val/loss"),),
        eval_losses=("val/loss",),
        train_losses=("train/loss",),
        steps=(StepAxis("iter"),),
        lr=("learning_rate",),
        batch=(BatchKeys(("batch_size", "gradient_accumulation_steps")),),
        sequence_length=("block_size",),
    ),
    # olmo_core/train/callbacks/wandb.py: wandb.log(metrics, step=step), every optimizer step; train/common.py and
    # callbacks/speed_monitor.py for the names. The data loader's global batch size counts tokens.
    Framework(
        "OLMo-core",
        (_all("train/CE loss"),),
        train_losses=("train/CE loss",),
        eval_pattern=r"eval/lm/.*/CE loss",
        tokens=("throughput/total tokens",),
        lr=("train_module.optim.lr", "optim.lr"),
        batch=(BatchKeys(("data_loader.global_batch_size",), counts="tokens"),),
        seed=("init_seed", "seed"),
        sequence_length=("dataset.sequence_length", "max_sequence_length"),
    ),
    # OLMo (before OLMo-core): wandb.log(metrics, step=global_step).
    Framework(
        "OLMo",
        (_all("train/CrossEntropyLoss", "throughput/total_tokens"),),
        train_losses=("train/CrossEntropyLoss",),
        eval_pattern=r"eval/.*/CrossEntropyLoss",
        tokens=("throughput/total_tokens",),
        lr=("optimizer.learning_rate",),
        batch=(BatchKeys(("global_train_batch_size",)),),
        sequence_length=("model.max_sequence_length",),
    ),
    # composer/loggers/wandb_logger.py: wandb.log(metrics, step), the step being Timestamp.batch, one optimizer step
    # however many micro batches it is made of. time/sample and time/token are logged at its start.
    Framework(
        "Composer",
        (_all("loss/train/total"), _all("time/batch", "time/sample")),
        eval_losses=("metrics/eval/LanguageCrossEntropy", "metrics/eval/CrossEntropy"),
        train_losses=("loss/train/total", "metrics/train/LanguageCrossEntropy"),
        steps=(StepAxis(), StepAxis("time/batch")),
        examples=("time/sample",),
        tokens=("time/token",),
        lr=("optimizer.lr", "optimizers.lr"),
        batch=(BatchKeys(("global_train_batch_size",)), BatchKeys(("train_loader.global_batch_size",))),
        seed=("seed", "global_seed"),
        sequence_length=("max_seq_len",),
    ),
    # deepspeed/monitor/wandb.py and runtime/engine.py: the step of a row is global_samples, so W&B's own step counts
    # examples. train_batch_size is DeepSpeed's word for micro batch, accumulation and processes multiplied.
    Framework(
        "DeepSpeed",
        (_all("Train/Samples/train_loss"),),
        train_losses=("Train/Samples/train_loss",),
        steps=(StepAxis(None, "examples"),),
        lr=("optimizer.params.lr", "learning_rate", "lr"),
        batch=(
            BatchKeys(("train_batch_size",)),
            BatchKeys(
                ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
                per_process=True,
            ),
        ),
    ),
    # timm/utils/summary.py: one row an epoch, no step; train.py: the batch size is that of a process, the arguments
    # hold world_size.
    Framework(
        "timm",
        (_all("train_loss", "eval_loss", "eval_top1"),),
        eval_losses=("eval_loss",),
        train_losses=("train_loss",),
        steps=(),
        no_steps="timm logs one row an epoch and no step",
        lr=("lr",),
        batch=(
            BatchKeys(("batch_size", "grad_accum_steps"), per_process=True),
            BatchKeys(("batch_size",), per_process=True),
        ),
    ),
)

#: How many processes share a batch; the first one there is. `n_gpu` of Transformers counts the GPUs of one process.
PROCESS_KEYS = (
    "data_parallel_size",
    "dp_size",
    "world_size",
    "num_processes",
    "num_gpus",
    "n_gpus",
    "num_devices",
)
