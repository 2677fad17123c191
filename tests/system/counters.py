"""A cell that counts, prints each number, and appends it to a file, until told that it is enough:
by a file `enough` in the workspace. Numbers that are missing or there twice tell of a fault."""

from __future__ import annotations

from system.client import Cell, KernelClient
from system.folder import Folder

CODE = {
    "python3": """
import os, time
i = 0
while not os.path.exists("enough"):
    print(i, flush=True)
    with open("numbers.txt", "a") as file:
        print(i, file=file)
    i += 1
    time.sleep(0.02)
""",
    "bash": """
i=0
while [ ! -e enough ]; do
    echo $i
    echo $i >> numbers.txt
    i=$((i + 1))
    sleep 0.02
done
""",
    "ir": """
i <- 0
while (!file.exists("enough")) {
    cat(i, "\\n", sep = "")
    flush.console()
    cat(i, "\\n", sep = "", file = "numbers.txt", append = TRUE)
    i <- i + 1
    Sys.sleep(0.02)
}
""",
}
SOME = 20
"""So many numbers show that it counts."""


class Counter:
    """The cell, running in a kernel whose working directory is `folder`."""

    def __init__(self, cell: Cell, folder: Folder) -> None:
        self.cell = cell
        self._folder = folder

    @classmethod
    async def start(
        cls, kernel: KernelClient, folder: Folder, language: str = "python3"
    ) -> Counter:
        counter = cls(await kernel.send(CODE[language]), folder)
        await counter.goes_on()
        return counter

    async def goes_on(self) -> None:
        """Wait until it has counted further than now."""
        there = len(self.cell.numbers)
        await self.cell.until(lambda cell: len(cell.numbers) >= there + SOME)

    async def stop(self) -> list[int]:
        """Tell it that it is enough; all numbers it printed."""
        await self._folder.write("enough", "")
        await self.cell.end()
        assert self.cell.reply["status"] == "ok", self.cell
        return self.cell.numbers

    async def check(self) -> None:
        """Stop it: no number may be missing or there twice, neither shown nor in the file."""
        shown = await self.stop()
        assert shown == list(range(len(shown)))
        assert await self._folder.numbers("numbers.txt") == shown
