"""Nodes, agents, gateway and store are killed, paused, cut off and drained as a seed says; cells
count once, files and memory are of one moment, and one incarnation commits.

`make test-chaos SEEDS=200` runs more of them. A seed that failed is kept in failed_seeds.txt and
run always.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from system.running import System

from chaos.checker import trouble
from chaos.nemesis import plan
from chaos.world import SECONDS, World

FAILED = Path(__file__).with_name("failed_seeds.txt")
KEPT = [int(line.split()[0]) for line in FAILED.read_text().splitlines() if line.strip()]
FIRST = int(os.environ.get("FIRST_SEED", "0"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("SEEDS", "8")))

pytestmark = [pytest.mark.container, pytest.mark.needs("root", "ip", "nft")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    system = System(tmp_path_factory.mktemp("chaos") / "state").start()
    try:
        yield World(system)
    finally:
        system.stop()
        assert system.leftovers() == {}


@pytest.mark.parametrize("seed", [*dict.fromkeys([*KEPT, *SEEDS])])
async def test_whatever_goes_wrong_each_cell_counts_once(
    world: World, seed: int, artifacts: Path
) -> None:
    try:
        assert trouble(await world.run(seed)) == [], plan(seed, SECONDS)
    except BaseException:
        world.system.keep(artifacts)
        if seed not in KEPT:
            with FAILED.open("a") as file:
                file.write(f"{seed}\n")
        raise
