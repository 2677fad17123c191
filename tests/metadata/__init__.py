"""Metadata services of clouds, as a server on a socket that a test commands."""
