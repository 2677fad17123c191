"""`sessionkeeper bench`: what a user would feel, measured from outside on a system of its own.

Nothing here reaches into the product: a system is started as `sessionkeeper up` does, and spoken
to as a browser, an operator and a power cut do. `docs/benchmarks.md` says what each figure means.
"""

from sessionkeeper.bench.command import main

__all__ = ["main"]
