"""A real Ray cluster for the tests: one node, two GPUs that are none, on loopback, ended by its pid."""

from ray_cluster.cluster import GPUS, LOOPBACK, RayCluster, command_of, kill, processes_of, ray_missing

__all__ = ["GPUS", "LOOPBACK", "RayCluster", "command_of", "kill", "processes_of", "ray_missing"]
