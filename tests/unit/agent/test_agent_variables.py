"""What variables leave behind in a session's tree."""

from __future__ import annotations

from pathlib import Path

from sessionkeeper.agent import variables


def test_variables_of_a_kernel_that_has_ended_are_in_no_later_checkpoint(tmp_path: Path) -> None:
    below = tmp_path / variables.DIRECTORY
    for kernel in ("ended", "running"):
        (below / kernel).mkdir(parents=True)
        (below / kernel / "index.json").write_text("{}")
        (below / f"{kernel}.generation").write_text("1")
    (below / "link").symlink_to(below / "running")
    variables.clear(tmp_path, {"running": object()})
    assert sorted(path.name for path in below.iterdir()) == ["running", "running.generation"]
    assert (below / "running" / "index.json").exists()
    variables.clear(tmp_path / "a new session", {})
