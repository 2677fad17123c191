"""Compute that comes and goes with sessions: one node for one session, started and stopped by the
gateway. Where it comes from is a :class:`~sessionkeeper.compute.backend.ComputeBackend`.
"""
