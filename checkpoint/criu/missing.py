"""Which pages a process has not yet, and where in its address space they belong by now.

A process that runs before its memory is there goes on mapping, moving and discarding memory, and
tells so (userfaultfd(2), events). A page of the image is therefore at some *shift* from where it
was dumped, until it is copied to the process or the process gives it up.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Missing:
    """The pages, as stretches: from page `start` to before `end`, each `shift` above where it was
    dumped. All numbers are addresses / `PAGE`.
    """

    def __init__(self, stretches: Iterable[tuple[int, int]] = ()) -> None:
        """`stretches` are the pages of the image that have to come: start and end of each,
        ascending.
        """
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._shifts: list[int] = []
        self._known = {0}  # shifts there may be
        for start, end in stretches:
            self._starts.append(start)
            self._ends.append(end)
            self._shifts.append(0)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def copy(self) -> Missing:
        """The same pages, for a process that was forked."""
        other = Missing()
        other._starts, other._ends = list(self._starts), list(self._ends)
        other._shifts, other._known = list(self._shifts), set(self._known)
        return other

    def image_page(self, page: int) -> int | None:
        """Where `page` of the process was when it was dumped; None if it is not missing."""
        at = bisect_right(self._starts, page) - 1
        if at < 0 or page >= self._ends[at]:
            return None
        return page - self._shifts[at]

    def pieces(self, first: int, count: int) -> list[tuple[int, int, int]]:
        """Where missing ones of `count` pages, dumped from `first` on, belong now: the page, the
        one that it was, and how many, for each piece.
        """
        found = []
        for shift in self._known:
            start, end = first + shift, first + shift + count
            for at in self._touching(start, end):
                if self._shifts[at] == shift:
                    here = max(start, self._starts[at])
                    found.append((here, here - shift, min(end, self._ends[at]) - here))
        return found

    def drop(self, start: int, end: int) -> None:
        """Pages `start` to before `end` of the process are there, or not wanted any more."""
        self._cut(start, end)

    def move(self, start: int, end: int, to: int) -> None:
        """The process has moved its pages `start` to before `end`; the first is at `to` now."""
        moved = self._cut(start, end)
        self._cut(to, to + end - start)
        at = bisect_left(self._starts, to)
        by = to - start
        self._starts[at:at] = [one + by for one, _, _ in moved]
        self._ends[at:at] = [one + by for _, one, _ in moved]
        shifts = [one + by for _, _, one in moved]
        self._shifts[at:at] = shifts
        self._known.update(shifts)

    def _touching(self, start: int, end: int) -> Iterator[int]:
        at = max(bisect_right(self._starts, start) - 1, 0)
        while at < len(self._starts) and self._starts[at] < end:
            if self._ends[at] > start:
                yield at
            at += 1

    def _cut(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """Take `start` to before `end` out; what was there, as start, end and shift."""
        touched = list(self._touching(start, end))
        if not touched:
            return []
        first, last = touched[0], touched[-1]
        kept, cut = [], []
        for at in touched:
            one = self._starts[at], self._ends[at], self._shifts[at]
            if one[0] < start:
                kept.append((one[0], start, one[2]))
            cut.append((max(one[0], start), min(one[1], end), one[2]))
            if one[1] > end:
                kept.append((end, one[1], one[2]))
        self._starts[first : last + 1] = [one for one, _, _ in kept]
        self._ends[first : last + 1] = [one for _, one, _ in kept]
        self._shifts[first : last + 1] = [one for _, _, one in kept]
        return cut
