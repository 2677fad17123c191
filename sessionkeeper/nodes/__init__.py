"""Nodes on this machine: what stands for a computer that may vanish.

With root a node is a network, PID and mount namespace with an address of its own on a bridge;
without, a process group. Either way PID 1 of the node (`init`) keeps the agent running, and
pulling the plug takes everything on it, its data directory included.
"""
