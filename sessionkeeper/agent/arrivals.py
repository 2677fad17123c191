"""The kernels of a session that are restored lazily: from their images to all of their memory."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from checkpoint import criu
from checkpoint.errors import Damaged, MemoryLost, NotFound, UnknownFormat
from checkpoint.reader import Reader
from sessionkeeper.agent.arrival import Arrival
from sessionkeeper.agent.errors import RestoreFailed
from sessionkeeper.agent.place import Place, Slot

log = logging.getLogger(__name__)


class Arrivals:
    """Those of one session on this node. Thread-safe."""

    def __init__(self) -> None:
        self._images: list[criu.Lazy] = []
        self._under_way: list[Arrival] = []
        self._lost: MemoryLost | None = None

    def bring(
        self,
        reader: Reader,
        root: bytes,
        directory: Path,
        before: criu.Materialized | None,
        least: int,
    ) -> criu.Materialized:
        """Bring an image here, without its memory if that is at least ``least`` bytes.

        ``reader`` is this one's own. Raises ``CheckpointError``.
        """
        image = None
        try:
            image = criu.materialize_lazily(reader, root, directory, before, least)
        finally:
            if not isinstance(image, criu.Lazy):
                reader.close()
        if isinstance(image, criu.Lazy):
            self._images.append(image)
        elif image.loaded.size >= least:
            large = criu.large_stretches(image.loaded)
            log.info("kernel %s comes with all of its memory; large: %s", directory.name, large)
        return image

    def restore(self, place: Place, slot: Slot, image: criu.Lazy, epoch: int) -> bool:
        """Restore it; False, and a word in the log, when that does not work."""
        self._images.remove(image)
        try:
            self._under_way.append(place.restore_lazily(slot, image, epoch))
        except RestoreFailed as error:
            log.warning("kernel %s is restored with all of its memory: %s", slot.name, error)
            return False
        return True

    def over(self, within: float) -> bool:
        """Return whether all memory of the kernels is there, after ``within`` seconds at most.

        Raises ``MemoryLost``, once, for one that is dead because its memory did not come.
        """
        until = time.monotonic() + within
        for arrival in list(self._under_way):
            if not arrival.wait(max(0.0, until - time.monotonic())):
                return False
            self._under_way.remove(arrival)
            if arrival.lost is not None:
                self._lost = arrival.lost
                raise arrival.lost
        return True

    def fate(self) -> dict[str, Any]:
        """Return ``why`` a kernel is dead whose memory did not come, and whether that ``passes``;
        empty if there is none.
        """
        lost = self._found_lost()
        return {} if lost is None else {"why": str(lost), "passes": self.damage() is None}

    def damage(self) -> str | None:
        """Return why memory of a kernel can never come: the checkpoint lacks it."""
        lost = self._found_lost()
        cause = lost.__cause__ if lost is not None else None
        return str(cause) if isinstance(cause, (Damaged, NotFound, UnknownFormat)) else None

    def _found_lost(self) -> MemoryLost | None:
        return next((one.lost for one in self._under_way if one.lost is not None), self._lost)

    def no_more(self) -> None:
        """What was brought and not restored will not be."""
        while self._images:
            self._images.pop().abandon()

    def close(self) -> None:
        """Give up what is under way: the kernels are ended."""
        for arrival in self._under_way:
            arrival.give_up()
        self.no_more()
