"""While a checkpoint comes over a slow line, it is told how much of it has come; and that nothing
is saved before the first one has."""

from __future__ import annotations

from sessionkeeper.cli.running import described
from sessionkeeper.keeper.sending import Sending
from sessionkeeper.keeper.status import Status


class Line:
    """A line that brings a megabyte a second."""

    def __init__(self) -> None:
        self.now = 0.0
        self.status = Status("s", node="home")
        self.told: list[dict[str, float]] = []
        self.status.listen(lambda said: self.told.append(said["saving"]))
        self.sending = Sending(self.status, lambda: self.now)

    def bring(self, seconds: int) -> None:
        for _ in range(10 * seconds):
            self.now += 0.1
            self.sending.received(100_000)


def test_a_quick_checkpoint_is_not_worth_a_word() -> None:
    line = Line()
    line.sending.begin(first=True)
    line.bring(2)
    line.sending.end(committed=True)
    assert line.told == []


def test_a_slow_one_is_told_of_once_a_second() -> None:
    line = Line()
    line.sending.begin(first=False)
    line.bring(60)
    assert 50 < len(line.told) <= 60
    assert line.told[-1] == {"bytes": 60_000_000, "seconds": 60.0} or line.told[-1]["bytes"] > 58e6
    said = "\n".join(described(line.status.json(), 0.0))
    assert "MiB came from the node in" in said
    assert line.status.warnings == {}
    line.sending.end(committed=True)
    assert line.status.json()["saving"] == {}


def test_nothing_is_saved_before_the_first_one_is_there() -> None:
    line = Line()
    line.sending.begin(first=True)
    line.bring(20)
    (warning,) = line.status.warnings.values()
    assert "nothing of the session is saved yet" in warning
    assert "home" in warning
    line.sending.end(committed=False)
    assert line.status.warnings
    line.sending.begin(first=True)
    line.sending.end(committed=True)
    assert line.status.warnings == {}
