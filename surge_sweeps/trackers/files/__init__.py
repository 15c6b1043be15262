"""Runs in a folder of files, for nodes without a network: one Parquet file a run, no server, no lock."""
