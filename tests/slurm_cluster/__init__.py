"""A real SLURM for the tests and the benchmarks: a controller and nodes on loopback, ended by their pid."""

from slurm_cluster.cluster import NODES, SlurmCluster, slurm_missing

__all__ = ["NODES", "SlurmCluster", "slurm_missing"]
