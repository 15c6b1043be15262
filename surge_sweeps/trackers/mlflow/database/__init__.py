"""Reading an MLflow store straight from its database, read-only: SQLite and PostgreSQL."""
