"""Epochs only grow, whenever the gateway's process ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessionkeeper.keeper.epochs import Epochs
from sessionkeeper.session import Placed


def test_new_session_has_had_no_incarnation(tmp_path: Path) -> None:
    epochs = Epochs.load(tmp_path / "incarnation.json")
    assert (epochs.epoch, epochs.placed) == (0, None)


def test_epoch_is_above_all_that_were_here_or_in_the_store(tmp_path: Path) -> None:
    path = tmp_path / "incarnation.json"
    epochs = Epochs.load(path)
    assert [epochs.next(), epochs.next(), epochs.next(7), epochs.next(3)] == [1, 2, 8, 9]
    assert Epochs.load(path).next() == 10


def test_after_a_restart_the_node_has_to_say_that_it_is_up(tmp_path: Path) -> None:
    path = tmp_path / "incarnation.json"
    epochs = Epochs.load(path)
    epochs.place(Placed("a", epochs.next(), up=True))
    assert Epochs.load(path).placed == Placed("a", 1, up=False)
    epochs.place(None)
    assert Epochs.load(path).placed is None
    assert Epochs.load(path).epoch == 1


def test_crash_between_write_and_rename_leaves_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "incarnation.json"
    epochs = Epochs.load(path)
    epochs.place(Placed("a", epochs.next(), up=True))

    def crash(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            epochs.next()
    assert path.with_name(path.name + ".part").exists()
    again = Epochs.load(path)
    assert (again.epoch, again.placed) == (1, Placed("a", 1, up=False))
    # Nobody was told of epoch 2: it may be used.
    assert again.next() == 2


def test_crash_in_mid_write_leaves_what_was(tmp_path: Path) -> None:
    path = tmp_path / "incarnation.json"
    Epochs.load(path).next()
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.with_name(path.name + ".part").write_bytes(whole[:size])
        assert Epochs.load(path).epoch == 1
