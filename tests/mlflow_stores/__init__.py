"""Real MLflow stores for the tests: `mlflow server` and PostgreSQL, on loopback, ended by their pid."""

from mlflow_stores.postgres import Postgres, postgres_missing
from mlflow_stores.server import MlflowServer, free_port

__all__ = ["MlflowServer", "Postgres", "free_port", "postgres_missing"]
