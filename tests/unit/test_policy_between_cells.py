"""When checkpoints are due for kernels that can be saved between two cells only."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sessionkeeper.policy import Situation, due

LONG_AGO = Situation(
    now=1e6, last=0.0, cost=0.1, busy=True, changed=None, active=0.0, mid_cell=False
)


def test_never_during_a_cell_however_long():
    assert due(LONG_AGO) is None
    assert due(replace(LONG_AGO, changed=1.0)) is None
    assert due(replace(LONG_AGO, mid_cell=True)) == 0.0


@pytest.mark.parametrize("mid_cell", [True, False])
def test_between_cells_it_makes_no_difference(mid_cell: bool):
    idle = replace(LONG_AGO, busy=False, mid_cell=mid_cell)
    assert due(idle) is None
    assert due(replace(idle, changed=1.0, active=1.0)) == 0.0
