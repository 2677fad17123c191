"""Whether a history is one that the product promises. Pure: a history goes in, words come out.

1. What was acknowledged is there exactly once, in memory and in the file; what was not, at most
   once; and nothing that was never asked.
2. Memory and file are of one moment, so they have the same numbers, in the order of asking.
3. Each acknowledged cell shows what it printed once and in order, and the count that it printed
   is the place that its number has in the end: it ran on top of what was before it.
4. No two incarnations committed: along the chain epochs only grow, no number is there twice; and
   each epoch was heard of on one node alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from chaos.history import Commit, Heard, History, KernelHistory


def trouble(history: History) -> list[str]:
    """What is wrong, in words; empty for a history as promised."""
    found = [text for kernel in history.kernels for text in _of_kernel(kernel)]
    return [*found, *_of_chain(history.commits), *_of_epochs(history.heard)]


def _of_kernel(kernel: KernelHistory) -> Iterator[str]:
    for place, numbers in (("memory", kernel.memory), ("file", kernel.file)):
        for text in _of_numbers(kernel, numbers):
            yield f"{kernel.name}, {place}: {text}"
    if kernel.memory != kernel.file:
        yield f"{kernel.name}: memory has {kernel.memory}, the file {kernel.file}"
    for cell in kernel.cells:
        if cell.outcome == "error":
            yield f"{kernel.name}: cell {cell.number} failed: {' '.join(cell.shown)}"
        elif cell.outcome == "ok" and cell.number in kernel.memory:
            count = kernel.memory.index(cell.number) + 1
            wanted = tuple(f"{cell.number} {count} {part}" for part in range(cell.parts))
            if cell.shown != wanted:
                yield f"{kernel.name}: cell {cell.number} shows {cell.shown} instead of {wanted}"


def _of_numbers(kernel: KernelHistory, numbers: Sequence[int]) -> Iterator[str]:
    there = Counter(numbers)
    asked = [cell.number for cell in kernel.cells]
    for number, times in there.items():
        if number not in asked:
            yield f"{number} was never asked"
        elif times > 1:
            yield f"{number} is there {times} times"
    for cell in kernel.cells:
        if cell.outcome == "ok" and not there[cell.number]:
            yield f"{cell.number} was acknowledged and is not there"
    place = {number: at for at, number in enumerate(asked)}
    known = [number for number in numbers if number in place]
    for before, after in pairwise(known):
        if place[after] < place[before]:
            yield f"{after} comes after {before}"


def _of_chain(commits: Sequence[Commit]) -> Iterator[str]:
    for before, after in pairwise(commits):
        if after.number <= before.number:
            yield f"checkpoint {after.number} comes after {before.number}"
        if after.epoch < before.epoch:
            yield (
                f"checkpoint {after.number} is of epoch {after.epoch}, which was over:"
                f" {before.number} is of {before.epoch}"
            )
        elif after.epoch == before.epoch and after.gateway != before.gateway:
            yield f"epoch {after.epoch} was committed by {before.gateway} and {after.gateway}"


def _of_epochs(heard: Sequence[Heard]) -> Iterator[str]:
    nodes: dict[int, str] = {}
    for one in heard:
        first = nodes.setdefault(one.epoch, one.node)
        if first != one.node:
            yield f"epoch {one.epoch} was on {first} and on {one.node}"
    for before, after in pairwise(heard):
        if after.epoch < before.epoch:
            yield f"epoch {after.epoch} was heard after {before.epoch}"
