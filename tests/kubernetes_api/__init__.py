"""A loopback HTTP server that answers as a Kubernetes API server does, and where asked runs the Jobs it is given.

Written after the API's documentation and the validation in the Kubernetes sources: no real server was at hand.
"""

from kubernetes_api.server import KubernetesServer

__all__ = ["KubernetesServer"]
