"""Faults on the hops of the link, and what they are tried with."""
