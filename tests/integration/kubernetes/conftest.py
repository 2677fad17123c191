"""What of a cluster's tests is for the cluster of the tests alone."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A real cluster keeps the agents' token to itself, and its gateway is its operator's."""
    if not os.environ.get("KUBECONFIG"):
        return
    ours = [item for item in items if item.get_closest_marker("own_cluster")]
    items[:] = [item for item in items if item not in ours]
    config.hook.pytest_deselected(items=ours)
