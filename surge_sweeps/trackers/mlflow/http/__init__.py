"""Reading an MLflow server over HTTP, by the quickest way that it offers."""
