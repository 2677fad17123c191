"""Checkpoints of directories, processes and bytes: encrypted, deduplicated, with a history.

It stands alone and knows nothing of Jupyter; `docs/library.md` shows how to use it.

    blobs           stores: a directory, a bucket, memory; what is put around them
    repository      the chain of checkpoints of one session; `keys`, `manifest`, `writer`, `reader`
    files, criu, namespace    file trees, images of processes, variables of a Python program
    tags, fork, retention, collect, fsck, repair, rotation, deletion    what is done with them later
    errors          all that is raised
"""
