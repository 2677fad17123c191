"""The kernels that a gateway finds when it is started again."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.feed import Feed
from gateway.frames import IOPUB, SHELL, encode_payload
from gateway.kernels import Kernels

HEADER = b'{"msg_id": "a", "msg_type": "execute_request", "session": "s", "version": "5.3"}'


def test_a_damaged_record_leaves_out_one_kernel_and_the_others_go_on(tmp_path: Path) -> None:
    kernels = Kernels(tmp_path)
    damaged, whole = kernels.create("python3"), kernels.create("python3")
    kernels.close()
    (tmp_path / damaged.id / "kernel.json").write_text('{"id": ')
    again = Kernels(tmp_path)
    assert list(again.records) == [whole.id]
    assert again.damaged == [tmp_path / damaged.id / "kernel.json"]
    again.close()


def test_a_kernel_is_called_by_its_notebook_as_long_as_it_has_one(tmp_path: Path) -> None:
    kernels = Kernels(tmp_path)
    record = kernels.create("python3")
    assert kernels.called(record.id) == f"kernel {record.id[:8]}"
    session = kernels.notebooks.create("work/a.ipynb", "", "notebook", record.id)
    assert kernels.called(record.id) == "work/a.ipynb"
    kernels.notebooks.update(session.id, path="work/b.ipynb")
    assert kernels.called(record.id) == "work/b.ipynb"
    kernels.remove(record.id)
    assert kernels.notebooks.all() == []
    kernels.close()


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_kernel_that_runs_is_idle_or_busy_after_a_restart_of_the_gateway(
    tmp_path: Path, state: str
) -> None:
    kernels = Kernels(tmp_path)
    record = kernels.create("python3")
    kernels.started(record.id)
    channel = kernels.channel(record.id)
    if state == "busy":
        channel.submit(encode_payload(SHELL, [HEADER, b"{}", b"{}", b"{}"]))
        channel.link.acked = 1
        status = [HEADER, HEADER, b"{}", b'{"execution_state": "busy"}']
        channel.outlet.deliver(encode_payload(IOPUB, status), (1, 1))
    kernels.close()
    again = Kernels(tmp_path)
    assert again.model(record.id)["execution_state"] == state
    again.close()


def test_who_only_watches_is_no_connection(tmp_path: Path) -> None:
    kernels = Kernels(tmp_path)
    record = kernels.create("python3")
    outlet = kernels.channel(record.id).outlet
    watches = Feed(outlet, lambda _: None, "w", 0, lambda: None, current=lambda _: None)
    outlet.attach(watches)
    assert kernels.model(record.id)["connections"] == 0
    outlet.attach(Feed(outlet, lambda _: None, "s", 0, lambda: None))
    assert kernels.model(record.id)["connections"] == 1
    kernels.close()


def test_new_kernel_has_what_all_have_in_their_environment_unless_its_starter_says_otherwise(
    tmp_path: Path,
):
    kernels = Kernels(tmp_path, environment={"WHO": "ann", "WHERE": "here"})
    record = kernels.create("python3", {"WHERE": "there"})
    assert record.env == {"WHO": "ann", "WHERE": "there"}
    kernels.close()
