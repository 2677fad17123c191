"""Cells are numbered, faults come as a seed says, and what is there in the end is checked."""
