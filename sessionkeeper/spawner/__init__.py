"""Sessions for the users of a JupyterHub.

    c.JupyterHub.spawner_class = "sessionkeeper.spawner.SessionKeeperSpawner"

See docs/jupyterhub.md. Needs `jupyterhub` 5 or 6 (`pip install sessionkeeper[hub]`).
"""

from sessionkeeper.spawner.spawner import SessionKeeperSpawner

__all__ = ["SessionKeeperSpawner"]
