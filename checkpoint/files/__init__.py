"""File trees: a directory to chunks and back, and reading files from the repository without either.

tree = scan(root, last, writer)              # while everything runs: reads and stores what changed
tree = scan(root, tree, writer, copy=True)   # under freeze: copies what changed in between
root_id = tree.store(writer)                 # runs again: stores the copies and the directories

tree = materialize(reader, root_id, root)    # elsewhere; `tree` is the `last` to go on from
"""

from checkpoint.files.materialize import Restored, materialize
from checkpoint.files.scan import SOCKET, scan
from checkpoint.files.scanned import Skipped, Tree
from checkpoint.files.tree import Entry, Kind
from checkpoint.files.view import TreeView

__all__ = [
    "SOCKET",
    "Entry",
    "Kind",
    "Restored",
    "Skipped",
    "Tree",
    "TreeView",
    "materialize",
    "scan",
]
