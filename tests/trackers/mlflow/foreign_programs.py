"""Programs as others write them, logged to MLflow by the real integrations; started by ``test_foreign.py``.

``foreign_programs.py URI TRUTH.json``: each program fills an experiment of its name, and what it really did (learning
rate, batch size, loss by the number of optimizer steps done) goes into the file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import lightning as L
import mlflow
import optuna
import torch
from lightning.pytorch.loggers import MLFlowLogger
from mlflow.optuna.storage import MlflowStorage
from ray.air.integrations.mlflow import MLflowLoggerCallback, setup_mlflow
from ray.tune.experiment import Trial
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

LRS, BATCH_SIZES = (0.01, 0.1), (8, 16)
#: Loss by the number of optimizer steps done.
Losses = dict[int, float]


class Truth:
    """What the programs did, by experiment."""

    def __init__(self) -> None:
        self.runs: dict[str, list[dict[str, Any]]] = {}

    def add(self, experiment: str, lr: float, batch_size: int, losses: Losses) -> None:
        self.runs.setdefault(experiment, []).append({"lr": lr, "batch_size": batch_size, "losses": losses})


def cells() -> Iterator[tuple[float, int]]:
    return product(LRS, BATCH_SIZES)


def decay(lr: float, batch_size: int, step: int) -> float:
    """The loss of a quadratic, for programs whose logging alone matters."""
    return 0.5 * (1 - lr) ** (2 * step) + 0.01 * lr / batch_size


def ray_callback(uri: str, truth: Truth) -> None:
    """Tune's callback, which the driver calls with each report; here without a cluster."""
    for name, steps_a_report in (("ray", 5), ("ray_reports", 1)):
        callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name=name)
        callback.setup()
        for lr, batch_size in cells():
            config = {
                "train_loop_config": {"lr": lr, "batch_size": batch_size, "run_name": f"lr{lr}-{batch_size}"}
            }
            trial = Trial("TorchTrainer", config=config, stub=True)
            callback.log_trial_start(trial)
            losses: Losses = {}
            for report in range(1, 5):
                step = report * steps_a_report
                losses[step] = decay(lr, batch_size, step)
                own = {"val_loss": losses[step]} | ({"global_step": step} if name == "ray" else {})
                result = {
                    "timestamp": 1_700_000_000 + report,
                    "checkpoint_dir_name": None,
                    "done": report == 4,
                }
                result |= {
                    "training_iteration": report,
                    "trial_id": trial.trial_id,
                    "date": "2026-11-22_12-00-00",
                }
                result |= {
                    "time_this_iter_s": 0.1,
                    "time_total_s": 0.1 * report,
                    "pid": 4711,
                    "hostname": "node1",
                }
                result |= {"node_ip": "127.0.0.1", "config": config, "iterations_since_restore": report}
                callback.log_trial_result(report, trial, own | result)
            callback.log_trial_end(trial)
            truth.add(name, lr, batch_size, losses)


def ray_in_the_trainable(uri: str, truth: Truth) -> None:
    for lr, batch_size in cells():
        config = {"lr": lr, "batch_size": batch_size, "max_steps": 4}
        session = setup_mlflow(
            config, tracking_uri=uri, experiment_name="ray_setup", create_experiment_if_not_exists=True
        )
        losses = {step: decay(lr, batch_size, step) for step in range(1, 5)}
        for step, loss in losses.items():
            session.log_metrics({"val_loss": loss}, step=step)
        session.end_run()
        truth.add("ray_setup", lr, batch_size, losses)


def optuna_storage(uri: str, truth: Truth) -> None:
    """One trial of each cell and one that is pruned after its first report."""
    del uri
    storage = MlflowStorage(mlflow.create_experiment("optuna"))
    sampler = optuna.samplers.GridSampler({"lr": LRS, "batch_size": BATCH_SIZES})
    pruner = optuna.pruners.ThresholdPruner(upper=0.495)
    study = optuna.create_study(study_name="study", storage=storage, sampler=sampler, pruner=pruner)

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-3, 1.0, log=True)
        batch_size = trial.suggest_categorical("batch_size", BATCH_SIZES)
        losses: Losses = {}
        truth.add("optuna", lr, batch_size, losses)
        for step in (1, 2, 4, 8):
            losses[step] = decay(lr, batch_size, step) + (0.1 if (lr, batch_size) == (0.01, 16) else 0)
            trial.report(losses[step], step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return losses[8]

    study.optimize(objective, n_trials=4)
    storage.flush_all_batches()


def transformers_trainer(uri: str, truth: Truth) -> None:
    """``report_to=["mlflow"]`` as it is, and beside a run of the program's own that records the number of processes."""
    del uri
    fixed = torch.Generator().manual_seed(0)
    data = [{"input_ids": row, "labels": row} for row in torch.randint(32, (64, 8), generator=fixed)]
    for experiment in ("transformers", "transformers_world"):
        mlflow.set_experiment(experiment)
        for lr, batch_size in cells():
            losses: Losses = {}

            class Record(TrainerCallback):
                def on_evaluate(
                    self, args: Any, state: Any, control: Any, *, into: Losses = losses, **rest: Any
                ) -> None:
                    into[state.global_step] = rest["metrics"]["eval_loss"]

            training = TrainingArguments(
                output_dir=f"out-{lr}-{batch_size}",
                run_name=f"{experiment}-{lr}-{batch_size}",
                learning_rate=lr,
                lr_scheduler_type="constant",
                per_device_train_batch_size=8,
                gradient_accumulation_steps=batch_size // 8,
                max_steps=4,
                logging_steps=1,
                eval_strategy="steps",
                eval_steps=2,
                save_strategy="no",
                report_to=["mlflow"],
                disable_tqdm=True,
                use_cpu=True,
            )
            config = GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=1)
            trainer = Trainer(
                GPT2LMHeadModel(config),
                training,
                train_dataset=data,
                eval_dataset=data[:8],
                callbacks=[Record()],
            )
            if experiment == "transformers_world":
                mlflow.start_run()
                mlflow.log_param("world_size", training.world_size)
            trainer.train()
            mlflow.end_run()
            truth.add(experiment, lr, batch_size, losses)


class Line(L.LightningModule):
    """Notes the validation loss with the number of optimizer steps that were really done."""

    def __init__(self, lr: float, batch_size: int, output_dir: str) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.weights = torch.nn.Linear(4, 1)
        self.losses: Losses = {}

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        loss = (self.weights(batch[0]) ** 2).mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        loss = (self.weights(batch[0]) ** 2).mean()
        self.losses[self.trainer.global_step] = loss.item()
        self.log("val_loss", loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


def fit_lines(truth: Truth, experiment: str, logger: Callable[[], Any]) -> None:
    examples = torch.utils.data.TensorDataset(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
    for lr, batch_size in cells():
        model = Line(lr, batch_size, f"out/{experiment}/{lr}/{batch_size}")
        trainer = L.Trainer(
            max_epochs=3,
            logger=logger(),
            log_every_n_steps=2,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
        )
        loaders = (torch.utils.data.DataLoader(examples, batch_size=size) for size in (batch_size, 64))
        with mlflow.start_run(experiment_id=mlflow.set_experiment(experiment).experiment_id) as run:
            trainer.fit(model, *loaders)
            if experiment.startswith("autolog"):
                mlflow.log_param("batch_size", batch_size)
        if not experiment.startswith("autolog"):
            mlflow.delete_run(run.info.run_id)
        truth.add(experiment, lr, batch_size, model.losses)


def lightning(uri: str, truth: Truth) -> None:
    fit_lines(truth, "lightning", lambda: MLFlowLogger("lightning", tracking_uri=uri))


def autologging(uri: str, truth: Truth) -> None:
    del uri
    mlflow.pytorch.autolog(log_models=False, checkpoint=False)
    fit_lines(truth, "autolog", lambda: False)
    mlflow.pytorch.autolog(disable=True)


PROGRAMS = (ray_callback, ray_in_the_trainable, optuna_storage, transformers_trainer, lightning, autologging)

if __name__ == "__main__":
    store, truth_file = sys.argv[1:]
    mlflow.set_tracking_uri(store)
    told = Truth()
    for program in PROGRAMS:
        program(store, told)
    Path(truth_file).write_text(json.dumps(told.runs), "utf-8")
