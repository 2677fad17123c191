"""`sessionkeeper store`: what is typed, what comes back, and what it leaves in the store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from checkpoint import holder
from checkpoint.blobs import LocalDirectory
from checkpoint.keys import ENVIRONMENT, add_master_key, locked, master_keys
from checkpoint.manifest import Body, Manifest
from checkpoint.repository import Repository
from sessionkeeper.cli import main

DAY = 86400.0


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory whose store has the session `lab` with four checkpoints, ten days apart."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    state = tmp_path / "state"
    state.mkdir()
    repository = _repository(state)
    for number in range(1, 5):
        with repository.writer(repository.newest()) as writer:
            name = writer.add(b"content %d" % number)
            body = Body(writer.finish(), name)
        created = 1.7e9 + number * 10 * DAY
        repository.commit(Manifest(number, 1, number - 1 or None, created, body))
    return state


def _repository(state: Path, session: str = "lab") -> Repository:
    store = LocalDirectory(state / "store")
    return Repository.open(store, session, *master_keys(state / "master.key"))


def _run(state: Path, capsys: Any, *words: str, code: int = 0) -> dict[str, Any]:
    assert main(["store", *words, "--state", str(state), "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def _numbers(found: dict[str, Any]) -> list[int]:
    return [one["number"] for one in found["checkpoints"]]


def test_checkpoint_is_named_and_kept_while_others_are_thinned_out(
    state: Path, capsys: Any
) -> None:
    assert _run(state, capsys, "tag", "lab", "good", "2")["number"] == 2
    small = ("prune", "lab", "--all", "0", "--hourly", "0", "--daily", "0")
    assert _run(state, capsys, *small, "--dry-run")["deleted"] == {"lab": [1, 3]}
    assert _run(state, capsys, *small)["deleted"] == {"lab": [1, 3]}
    found = _run(state, capsys, "show", "lab")
    assert _numbers(found) == [2, 4]
    assert found["checkpoints"][0]["tags"] == ["good"]
    assert _run(state, capsys, "untag", "lab", "good") == {"session": "lab", "tag": "good"}
    assert _run(state, capsys, *small)["deleted"] == {"lab": [2]}
    assert len(_run(state, capsys, "gc", "--offline")["pools"]["lab"]["deleted"]) == 3
    assert _run(state, capsys, "fsck") == {"intact": True, "findings": []}


def test_fork_is_listed_with_the_pool_it_shares(state: Path, capsys: Any) -> None:
    _run(state, capsys, "fork", "lab", "try", "--at", "3")
    lab, fork = _run(state, capsys, "list")["sessions"]
    assert (lab["session"], lab["checkpoints"], lab["shares_packs_of"]) == ("lab", 4, None)
    assert (fork["session"], fork["checkpoints"], fork["shares_packs_of"]) == ("try", 1, "lab")
    assert main(["store", "fork", "lab", "try", "--at", "2", "--state", str(state)]) == 1
    assert "There is a session 'try' already." in capsys.readouterr().err


def test_collection_says_whom_it_waits_for(state: Path, capsys: Any) -> None:
    holder.say(_repository(state), "here")
    _run(state, capsys, "prune", "--all", "0", "--hourly", "0", "--daily", "0")
    assert _run(state, capsys, "gc")["pools"]["lab"]["listed"] == 3
    assert main(["store", "gc", "--state", str(state)]) == 0
    assert "wait until lab has two more checkpoints" in capsys.readouterr().out
    assert len(_run(state, capsys, "gc", "--idle", "lab")["pools"]["lab"]["deleted"]) == 3


def test_collection_waits_for_nobody_when_all_have_ended(state: Path, capsys: Any) -> None:
    _run(state, capsys, "prune", "--all", "0", "--hourly", "0", "--daily", "0")
    assert _run(state, capsys, "gc")["pools"]["lab"]["listed"] == 3
    assert len(_run(state, capsys, "gc")["pools"]["lab"]["deleted"]) == 3


def test_session_is_deleted_and_its_packs_stay_for_its_fork(state: Path, capsys: Any) -> None:
    _run(state, capsys, "fork", "lab", "try", "--at", "3")
    journals = state / "gateway/sessions/lab"
    journals.mkdir(parents=True)
    assert main(["store", "delete", "lab", "--state", str(state)]) == 2
    assert "--yes" in capsys.readouterr().err
    done = _run(state, capsys, "delete", "lab", "--yes")
    assert (done["checkpoints"], done["kept_for"]) == (4, ["try"])
    assert not journals.exists()
    sessions = _run(state, capsys, "list")["sessions"]
    assert [(one["session"], one["deleted"]) for one in sessions] == [("lab", True), ("try", False)]
    found = _run(state, capsys, "fsck")
    assert found["intact"]
    assert found["findings"] == [{"session": "lab", "deleted": True, "forks": ["try"]}]
    assert main(["store", "fsck", "--state", str(state)]) == 0
    assert "its packs stay for try" in capsys.readouterr().out
    assert _run(state, capsys, "delete", "try", "--yes")["pool"] == "lab"
    assert not [path for path in (state / "store/sessions").rglob("*") if path.is_file()]
    assert _run(state, capsys, "list")["sessions"] == []


def test_session_that_is_run_is_not_deleted(
    state: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holder, "runs", lambda *_, **__: "a machine far away")
    assert main(["store", "delete", "lab", "--yes", "--state", str(state)]) == 3
    assert "is run by a gateway on a machine far away" in capsys.readouterr().err
    assert len(_run(state, capsys, "show", "lab")["checkpoints"]) == 4


def test_damage_is_named_with_exit_code_1_and_repaired_from_a_peer(
    state: Path, tmp_path: Path, capsys: Any
) -> None:
    peer = tmp_path / "peer"
    shutil.copytree(state / "store", peer)
    manifest = _repository(state).load(4)
    pack = state / "store/sessions/lab" / manifest.packs[0].key
    data = bytearray(pack.read_bytes())
    data[20] ^= 1
    pack.write_bytes(data)
    assert main(["store", "fsck", "--state", str(state)]) == 1
    said = capsys.readouterr().out
    assert manifest.packs[0].id.hex() in said
    assert "Touches lab 4." in said
    found = _run(state, capsys, "fsck", "--repair", "--peer", str(peer))
    assert found["intact"]
    assert found["findings"][0]["repaired_from"] == "the peer"
    assert main(["store", "fsck", "--state", str(state)]) == 0
    assert "all of it is intact" in capsys.readouterr().out


def test_damaged_key_is_named_and_comes_back_from_a_peer(
    state: Path, tmp_path: Path, capsys: Any
) -> None:
    peer = tmp_path / "peer"
    shutil.copytree(state / "store", peer)
    key = state / "store/sessions/lab/key"
    whole = key.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    for lose in (lambda: key.write_bytes(flipped), key.unlink):
        lose()
        assert main(["store", "fsck", "--state", str(state)]) == 1
        assert "The key of session 'lab' is damaged" in capsys.readouterr().out
    assert _run(state, capsys, "fsck", "--repair", "--peer", str(peer))["intact"]


def test_master_key_is_replaced_in_two_steps_that_may_be_repeated(state: Path, capsys: Any) -> None:
    file = state / "master.key"
    [old] = master_keys(file)
    _run(state, capsys, "rotate-key")
    new, still = master_keys(file)
    assert still.key_id == old.key_id
    dropped = _run(state, capsys, "rotate-key", "--drop-old")
    assert [key.key_id for key in master_keys(file)] == [new.key_id]
    [kept] = map(Path, dropped["old"])
    assert (dropped["checked"], kept.stat().st_mode & 0o777) == (1, 0o600)
    assert [key.key_id for key in master_keys(kept)] == [old.key_id]
    assert _run(state, capsys, "fsck")["intact"]


def test_replacement_that_was_stopped_goes_on_with_the_same_new_key(
    state: Path, capsys: Any
) -> None:
    new = add_master_key(state / "master.key")
    drop = ["store", "rotate-key", "--drop-old", "--state", str(state)]
    assert main(drop) == 2
    assert "The old key is still needed for lab" in capsys.readouterr().err
    found = _run(state, capsys, "rotate-key")
    assert (found["sessions"], found["resumed"]) == (["lab"], True)
    assert main(drop) == 0
    assert [key.key_id for key in master_keys(state / "master.key")] == [new.key_id]


def test_master_key_is_replaced_by_one_command_at_a_time(state: Path, capsys: Any) -> None:
    file = state / "master.key"
    before = file.read_text()
    with locked(file):
        for more in ([], ["--drop-old"]):
            assert main(["store", "rotate-key", *more, "--state", str(state)]) == 3
            assert "Another process replaces the master key" in capsys.readouterr().err
    assert file.read_text() == before


def test_old_key_stays_while_no_session_tells_that_it_may_go(
    state: Path, tmp_path: Path, capsys: Any
) -> None:
    _run(state, capsys, "rotate-key")
    both = (state / "master.key").read_text()
    (tmp_path / "empty").mkdir()
    words = ["store", "rotate-key", "--drop-old", "--state", str(state), "--store"]
    assert main([*words, str(tmp_path / "empty")]) == 2
    assert "no session in this store" in capsys.readouterr().err
    assert main([*words, f"file://{tmp_path}/mistyped"]) == 2
    assert "there is no store" in capsys.readouterr().err
    assert (state / "master.key").read_text() == both


@pytest.mark.parametrize("url", ["{}/mistyped", "file://{}/mistyped"])
@pytest.mark.parametrize("words", ["list", "fsck", "gc", "prune", "fsck --repair --peer URL"])
def test_mistyped_store_is_refused_and_not_made(
    state: Path, tmp_path: Path, capsys: Any, words: str, url: str
) -> None:
    place = url.format(tmp_path)
    given = words.replace("URL", place).split()
    more = [] if "URL" in words else ["--store", place]
    assert main(["store", *given, *more, "--state", str(state)]) == 2
    assert f"there is no store {place}" in capsys.readouterr().err
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["show", "none"], 8, "no session 'none'"),
        (["tag", "lab", "x", "77"], 8, "no checkpoint 77"),
        (["tag", "lab", "a/b"], 2, "not a valid tag"),
        (["tag", "lab", "7"], 2, "would be taken for a checkpoint's number"),
        (["fsck", "--peer", "anywhere"], 2, "--peer is for --repair"),
        (["untag", "lab", "x"], 8, "no tag 'x'"),
        (["fork", "lab", "new", "--at", "x"], 8, "no tag 'x'"),
        (["fork", "lab", "a/b"], 2, "not a valid session id"),
        (["prune", "--all", "long"], 2, "--all: 'long' is not a duration"),
        (["list", "--store", "nowhere/at/all"], 2, "no store"),
        (["list", "--master-key", "nowhere"], 2, "no master key"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_exit_code(
    state: Path, capsys: Any, words: list[str], code: int, said: str
) -> None:
    assert main(["store", *words, "--state", str(state)]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "action",
    ["list", "show", "tag", "untag", "fork", "prune", "gc", "delete", "fsck", "rotate-key"],
)
def test_every_action_has_help(action: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["store", action, "--help"])
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_tables_are_for_people(state: Path, capsys: Any) -> None:
    assert main(["store", "list", "--state", str(state)]) == 0
    assert main(["store", "show", "lab", "--state", str(state)]) == 0
    said = capsys.readouterr().out
    assert "SESSION" in said
    assert "NUMBER" in said
