"""Runs that W&B wrote to disk, read without a server."""
