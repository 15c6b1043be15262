"""What is wrong with an MLflow store, and how to mend it: looked at without writing, mended one by one when asked."""
