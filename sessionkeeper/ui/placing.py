"""Runs of cells, put into a notebook's JSON (nbformat 4). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sessionkeeper.ui.runs import Run

__all__ = ["judge", "place"]

Cell = dict[str, Any]
Notebook = dict[str, Any]


def place(
    notebook: Notebook, runs: Iterable[Run], *, may_add: bool, trusted: bool = False
) -> list[Run]:
    """Have the cells show what their runs left; the runs that have a cell there now.

    A cell that the file does not have (it was run before the notebook was saved with it) is added
    after the one that ran before it, if `may_add`. A run that goes on shows what there is so far,
    without a count. `trusted`: say that the user ran it, as a notebook does in a page but not in
    its file.
    """
    cells: list[Cell] = notebook.get("cells", [])
    placed: list[Run] = []
    before: Cell | None = None
    for run in sorted((run for run in runs if run.happened), key=lambda run: run.first):
        cell = _cell_of(cells, run)
        if cell is None:
            if not (may_add and run.in_notebook and run.begun) or run.tentative:
                continue
            cell = _new_cell(notebook, run)
            at = next((i for i, one in enumerate(cells) if one is before), len(cells) - 1)
            cells.insert(at + 1, cell)
        before = cell
        placed.append(run)
        if not run.tentative or _is_blank(cell):
            cell["outputs"] = run.shown()
            cell["execution_count"] = run.count if run.ended else None
            if trusted:
                cell["metadata"]["trusted"] = True
    return placed


def judge(notebook: Notebook, runs: Iterable[Run], has: Callable[[Run], bool]) -> list[Run]:
    """A tab saves `notebook`; the runs that the file will have, or that the user did away with.

    What the tab did not know yet is put in. `has(run)` says whether the tabs have got all of a run:
    then what the tab shows is the user's word, also if its outputs are cleared there.
    """
    cells: list[Cell] = notebook.get("cells", [])
    settled: list[Run] = []
    for run in runs:
        cell = _cell_of(cells, run)
        if cell is None:  # nobody saves a notebook without the cells that it has
            settled.append(run)
        elif not run.ended:
            continue
        elif run.seen or has(run) or (run.count and cell.get("execution_count") == run.count):
            run.seen = True
            settled.append(run)
        else:
            settled += place(notebook, [run], may_add=False, trusted=True)
    return settled


def _cell_of(cells: list[Cell], run: Run) -> Cell | None:
    code = [cell for cell in cells if cell.get("cell_type") == "code"]
    for cell in code:
        if cell.get("id") == run.cell:
            return cell
    # Notebooks before nbformat 4.5 have no ids.
    same = [cell for cell in code if "id" not in cell and _source(cell) == run.code]
    return same[0] if len(same) == 1 else None


def _source(cell: Cell) -> str:
    source = cell.get("source", "")
    return "".join(source) if isinstance(source, list) else str(source)


def _is_blank(cell: Cell) -> bool:
    return not cell.get("outputs") and cell.get("execution_count") is None


def _new_cell(notebook: Notebook, run: Run) -> Cell:
    cell = {"cell_type": "code", "metadata": {}, "source": run.code, "outputs": []}
    if (notebook.get("nbformat", 4), notebook.get("nbformat_minor", 0)) >= (4, 5):
        cell["id"] = run.cell
    return cell
