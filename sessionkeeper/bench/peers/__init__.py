"""What `bench checkpoint` measures beside sessionkeeper, in a Python environment of their own.

`dill_cells.py` and `kishu_cells.py` are run there, not imported: they depend on nothing of
sessionkeeper. Standard output of both: one JSON object of figures.
"""

from sessionkeeper.bench.peers.environment import PEERS, Environment, environment

__all__ = ["PEERS", "Environment", "environment"]
