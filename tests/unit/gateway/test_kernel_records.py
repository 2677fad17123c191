"""The kernels that a gateway finds when it is started again."""

from __future__ import annotations

from pathlib import Path

from gateway.kernels import Kernels


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
