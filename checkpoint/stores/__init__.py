"""Blob stores, one per module, and what can be put around any of them. See `checkpoint.blobs`."""
