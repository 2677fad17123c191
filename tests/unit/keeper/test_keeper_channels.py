"""What a gateway records of its kernels when the session goes on from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.kernels import Kernels
from sessionkeeper.keeper.compute import KernelChannels


def made(base: Path, notebook: str = "") -> tuple[Kernels, str]:
    kernels = Kernels(base)
    kernel_id = kernels.create("python3", {"KERNEL_A": "1"}, "work", notebook=notebook).id
    if notebook:
        kernels.notebooks.create(notebook, "", "notebook", kernel_id)
    return kernels, kernel_id


def kept(kernels: Kernels, kernel_id: str, generation: int) -> dict[str, dict[str, Any]]:
    said = KernelChannels(kernels).records()[kernel_id]
    return {kernel_id: {**said, "generation": generation}}


def test_deleted_kernel_is_there_again_with_its_notebook(tmp_path: Path) -> None:
    kernels, kernel_id = made(tmp_path, "a/work.ipynb")
    records = kept(kernels, kernel_id, 2)
    kernels.remove(kernel_id)
    KernelChannels(kernels).go_back(records, "why")
    record = kernels.record(kernel_id)
    assert (record.state, record.generation, record.path) == ("running", 2, "work")
    assert record.env == {"KERNEL_A": "1"}
    assert kernels.called(kernel_id) == "a/work.ipynb"
    kernels.close()


def test_notebook_that_has_another_kernel_by_now_keeps_that(tmp_path: Path) -> None:
    kernels, old = made(tmp_path, "work.ipynb")
    records = kept(kernels, old, 1)
    kernels.remove(old)
    new = kernels.create("python3").id
    kernels.notebooks.create("work.ipynb", "", "notebook", new)
    KernelChannels(kernels).go_back(records, "why")
    assert kernels.called(new) == "work.ipynb"
    assert kernels.called(old).startswith("kernel ")
    kernels.close()


def test_gateway_that_knows_nothing_numbers_requests_after_those_there_were(tmp_path: Path) -> None:
    kernels, kernel_id = made(tmp_path / "one")
    records = kept(kernels, kernel_id, 0)
    records[kernel_id]["inputs"] = 7
    other = Kernels(tmp_path / "two")
    KernelChannels(other).go_back(records, "why")
    assert other.channel(kernel_id).positions() == {"next_seq": 1, "applied": 7}
    [wanted] = KernelChannels(other).wanted()
    assert wanted["since"] is None  # a fresh process would not be asked all of it again
    kernels.close()
    other.close()


def test_doing_it_again_changes_nothing(tmp_path: Path) -> None:
    kernels, kernel_id = made(tmp_path)
    channels = KernelChannels(kernels)
    records = kept(kernels, kernel_id, 1)
    channels.go_back(records, "why")
    inputs = kernels.channel(kernel_id).journal.inputs
    inputs.append(b"asked since")
    channels.go_back(records, "why")
    assert inputs.held(inputs.last)
    kernels.close()


def test_kernel_that_ended_since_runs_again_whatever_it_had_been_restarted(tmp_path: Path) -> None:
    kernels, kernel_id = made(tmp_path)
    channels = KernelChannels(kernels)
    kernels.record(kernel_id).state = "ended"
    assert channels.wanted() == []
    assert channels.records()[kernel_id]["ended"]
    channels.go_back(kept(kernels, kernel_id, 1), "why")
    assert [kernel["kernel_id"] for kernel in channels.wanted()] == [kernel_id]
    kernels.close()


def test_kernel_without_a_checkpoint_is_brought_back_after_two_losses(tmp_path: Path) -> None:
    """The gateway is started again, then the node is lost: what the kernel was asked is asked
    again, as all of it is in the journal."""
    before = Kernels(tmp_path)
    record = before.create("python3")
    KernelChannels(before).begins(record.id, 0)
    before.close()
    again = Kernels(tmp_path)
    assert [kernel["since"] for kernel in KernelChannels(again).wanted()] == [0]
    again.go_back(record.id, 1, "the user went back")
    assert [kernel["since"] for kernel in KernelChannels(again).wanted()] == [None]
    again.close()
