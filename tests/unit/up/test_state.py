"""The state directory: who may read it, who holds it."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from sessionkeeper.errors import AlreadyRunning, NotRunning, UsageError
from sessionkeeper.up import control
from sessionkeeper.up.state import StateDirectory


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    found = StateDirectory(tmp_path / "state")
    found.prepare()
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_nobody_else_can_read_it(state: StateDirectory) -> None:
    state.write_record({"url": "http://h/?token=secret"})
    assert mode(state.path) == 0o700
    for name in ("ui", "gateway", "agent"):
        assert mode(state.token_file(name)) == 0o600
    assert mode(state.path / "up.json") == 0o600
    with state.listen():
        assert mode(state.control) == 0o600


def test_tokens_differ_and_stay(state: StateDirectory) -> None:
    before = {name: state.token(name) for name in ("ui", "gateway", "agent")}
    assert len(set(before.values())) == 3
    state.prepare()
    assert {name: state.token(name) for name in before} == before


def test_second_holder_is_told_who_has_it_and_what_to_do(state: StateDirectory) -> None:
    with state.locked():
        state.write_record({"url": "http://127.0.0.1:8888/lab?token=t", "pid": 4711})
        assert state.is_locked()
        with pytest.raises(AlreadyRunning) as caught, state.locked():
            pass
    assert "http://127.0.0.1:8888/lab?token=t" in str(caught.value)
    assert "4711" in str(caught.value)
    assert f"sessionkeeper down --state {state.path}" in caught.value.hint
    assert "--port" in caught.value.hint
    assert caught.value.exit_code == 3
    assert not state.is_locked()


def test_record_without_a_holder_is_not_believed(state: StateDirectory) -> None:
    state.write_record({"url": "http://gone", "pid": 1})
    with pytest.raises(NotRunning) as caught:
        state.running()
    assert caught.value.exit_code == 9
    assert "sessionkeeper up" in caught.value.hint


def test_damaged_record_is_none(state: StateDirectory) -> None:
    (state.path / "up.json").write_text("{")
    assert state.read_record() is None


def test_two_directories_have_two_names(tmp_path: Path) -> None:
    assert StateDirectory(tmp_path / "a").id != StateDirectory(tmp_path / "b").id
    assert StateDirectory(tmp_path / "a").id == StateDirectory(tmp_path / "a" / ".").id


def test_directory_that_cannot_be_made_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file/state") as caught:
        StateDirectory(tmp_path / "file" / "state").prepare()
    assert "--state" in caught.value.hint


def test_control_socket_works_below_a_very_long_path(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / ("d" * 200))
    state.prepare()
    with state.listen() as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rwb") as lines:
                call = json.loads(lines.readline())
                lines.write(json.dumps({"result": {"heard": call}}).encode() + b"\n")

        thread = threading.Thread(target=answer)
        thread.start()
        answered = control.request(state, "kill", node="node-1")
        thread.join()
    assert answered == {"heard": {"command": "kill", "node": "node-1"}}


def test_request_to_a_socket_that_nobody_serves_says_not_running(state: StateDirectory) -> None:
    state.listen().close()
    with pytest.raises(NotRunning):
        control.request(state, "stop")
    assert os.path.exists(state.control)
