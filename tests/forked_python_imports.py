"""What `forked_python` has imported before a program is asked for; importing it starts no thread."""

import gc

import mlflow.store.tracking.sqlalchemy_store
import torch._dynamo

import surge_sweeps.launch.run_task
import surge_sweeps.training.trial

__all__ = ["mlflow", "surge_sweeps", "torch"]

gc.freeze()
