"""Compute as pods of a Kubernetes cluster. ``docs/kubernetes.md``."""
