"""CSV and Parquet tables of runs, read as loss curves."""
