"""The workspace as JupyterLab uses it: every flow over the UI server's HTTP API."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from pathlib import Path

import nbformat.v4
import pytest
from ui_gateway import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")


def text_file(text: str) -> dict:
    return {"type": "file", "format": "text", "content": text}


def notebook(source: str) -> dict:
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    return {"type": "notebook", "format": "json", "content": content}


async def test_saved_text_is_in_the_workspace_when_the_answer_is_there(ui, gateway):
    model = await ui.api("PUT", "contents/a.txt", text_file("grüße\n"), expect=201)
    assert (gateway.root / "a.txt").read_text() == "grüße\n"
    assert (model["type"], model["content"], model["size"]) == ("file", None, 8)
    model = await ui.api("GET", "contents/a.txt?hash=1")
    assert (model["content"], model["format"], model["mimetype"]) == (
        "grüße\n",
        "text",
        "text/plain",
    )
    assert model["hash"] == hashlib.sha256("grüße\n".encode()).hexdigest()


async def test_bytes_come_as_base64_and_text_can_be_insisted_on(ui, gateway):
    (gateway.root / "b.bin").write_bytes(b"\xff\x00\xfe")
    model = await ui.api("GET", "contents/b.bin")
    assert model["format"] == "base64"
    assert base64.b64decode(model["content"]) == b"\xff\x00\xfe"
    refusal = await ui.api("GET", "contents/b.bin?type=file&format=text", expect=400)
    assert "not UTF-8" in refusal["message"]


async def test_notebook_is_saved_signed_and_has_a_revision(ui, gateway):
    saved = await ui.api("PUT", "contents/n.ipynb", notebook("1"), expect=201)
    assert saved["type"] == "notebook"
    model = await ui.api("GET", "contents/n.ipynb?content=1")
    assert model["content"]["cells"][0]["metadata"]["trusted"] is True
    assert [c["id"] for c in await ui.api("GET", "contents/n.ipynb/checkpoints")] == ["checkpoint"]

    await ui.api("PUT", "contents/n.ipynb", notebook("2"))
    await ui.api("POST", "contents/n.ipynb/checkpoints/checkpoint", expect=204)
    model = await ui.api("GET", "contents/n.ipynb")
    assert model["content"]["cells"][0]["source"] == "1"


async def test_revision_follows_its_file(ui, gateway):
    await ui.api("PUT", "contents/old.ipynb", notebook("1"), expect=201)
    await ui.api("PATCH", "contents/old.ipynb", {"path": "new.ipynb"})
    revisions = gateway.root / ".ipynb_checkpoints"
    assert (revisions / "new-checkpoint.ipynb").exists()
    await ui.api("DELETE", "contents/new.ipynb", expect=204)
    assert not (revisions / "new-checkpoint.ipynb").exists()


async def test_invalid_notebook_is_kept_and_said(ui, gateway):
    broken = notebook("1")
    broken["content"]["cells"][0]["cell_type"] = "cod"
    saved = await ui.api("PUT", "contents/broken.ipynb", broken, expect=201)
    assert "validation failed" in saved["message"]
    (gateway.root / "torn.ipynb").write_text('{"cells": [')
    refusal = await ui.api("GET", "contents/torn.ipynb", expect=400)
    assert "Unreadable Notebook: torn.ipynb" in refusal["message"]
    assert (await ui.api("GET", "contents/torn.ipynb?type=file"))["content"] == '{"cells": ['


async def test_upload_in_chunks_is_the_file(ui, gateway):
    content = os.urandom(3_500_000)
    pieces = [content[i : i + 2**20] for i in range(0, len(content), 2**20)]
    for number, piece in enumerate(pieces, 1):
        chunk = -1 if number == len(pieces) else number
        encoded = base64.b64encode(piece).decode()
        model = {"type": "file", "format": "base64", "content": encoded, "chunk": chunk}
        await ui.api("PUT", "contents/up.bin", model, expect=201 if number == 1 else 200)
    assert (gateway.root / "up.bin").read_bytes() == content


async def test_download_streams_and_knows_ranges(ui, gateway):
    content = os.urandom(5_000_000)
    (gateway.root / "down.bin").write_bytes(content)
    response = await ui.fetch("/files/down.bin?download=1")
    assert response.code == 200
    assert response.body == content
    assert "attachment" in response.headers["Content-Disposition"]
    for asked, expected in {
        "bytes=10-19": content[10:20],
        "bytes=4999990-": content[-10:],
        "bytes=-5": content[-5:],
    }.items():
        response = await ui.fetch("/files/down.bin", headers={"Range": asked})
        assert (response.code, response.body) == (206, expected)
    assert (await ui.fetch("/files/down.bin", headers={"Range": "bytes=5000000-"})).code == 416
    assert (await ui.fetch("/files/nothing.bin")).code == 404
    assert (await ui.fetch("/files/.hidden")).code == 404


async def test_download_goes_on_after_the_connection_broke(ui, gateway):
    content = os.urandom(5_000_000)
    (gateway.root / "broken.bin").write_bytes(content)
    gateway.swallow.add("GET")
    assert (await ui.fetch("/files/broken.bin")).body == content
    assert gateway.requests.count("GET  broken.bin") == 2


async def test_file_that_is_replaced_after_a_look_at_it_downloads_whole(ui, gateway):
    content = os.urandom(3_000_000)
    (gateway.root / "replaced.bin").write_bytes(b"short")

    def replace(path: Path) -> None:
        gateway.looked = lambda path: None
        (gateway.root / "new").write_bytes(content)
        (gateway.root / "new").rename(path)

    gateway.looked = replace
    response = await ui.fetch("/files/replaced.bin")
    assert (response.code, response.body) == (200, content)


async def test_empty_file_downloads(ui, gateway):
    (gateway.root / "empty").touch()
    response = await ui.fetch("/files/empty")
    assert (response.code, response.body) == (200, b"")


async def test_untitled_names_count_up(ui, gateway):
    (gateway.root / "count").mkdir()
    made = [await ui.api("POST", "contents/count", {"type": "notebook"}, 201) for _ in range(2)]
    made += [await ui.api("POST", "contents/count", {"type": "directory"}, 201) for _ in range(2)]
    made += [await ui.api("POST", "contents/count", {"type": "file", "ext": ".py"}, 201)]
    assert [model["name"] for model in made] == [
        "Untitled.ipynb",
        "Untitled1.ipynb",
        "Untitled Folder",
        "Untitled Folder 1",
        "untitled.py",
    ]


async def test_listing_leaves_out_what_jupyter_hides(ui, gateway):
    there = gateway.root / "listing"
    (there / "__pycache__").mkdir(parents=True)
    (there / ".secret").touch()
    (there / "dangling").symlink_to("nowhere")
    (there / "link").symlink_to(gateway.root / "listing")
    os.mkfifo(there / "pipe")
    (there / "plain").touch()
    listing = await ui.api("GET", "contents/listing")
    found = {entry["name"]: entry["type"] for entry in listing["content"]}
    assert found == {"plain": "file", "link": "directory"}


@pytest.mark.parametrize("name", ["ü #?%+&;.txt", "a b/ c", "名前.txt", "%41"])
async def test_any_name_works(ui, gateway, name):
    from urllib.parse import quote

    (gateway.root / name).parent.mkdir(exist_ok=True)
    await ui.api("PUT", f"contents/{quote(name)}", text_file("x"), expect=201)
    assert (gateway.root / name).read_text() == "x"
    assert (await ui.api("GET", f"contents/{quote(name)}"))["path"] == name
    assert (await ui.fetch(f"/files/{quote(name)}")).body == b"x"


async def test_name_that_is_no_utf8_does_not_spoil_the_listing(ui, gateway):
    (gateway.root / "odd").mkdir()
    (gateway.root / "odd" / os.fsdecode(b"caf\xe9")).write_text("x")
    listing = await ui.api("GET", "contents/odd")
    assert [entry["size"] for entry in listing["content"]] == [1]


@pytest.mark.parametrize("path", ["../etc/passwd", "a/../../etc/passwd", ".ssh/id", "a/.git"])
async def test_hidden_and_outside_are_not_there(ui, gateway, path):
    url = "/api/contents/" + path.replace("..", "%2e%2e")
    assert (await ui.fetch(url)).code == 404
    assert (await ui.fetch(url, "PUT", body=json.dumps(text_file("x")))).code == 400
    assert (await ui.fetch("/files/" + path.replace("..", "%2e%2e"))).code == 404


async def test_directory_with_something_in_it_is_not_deleted(ui, gateway):
    (gateway.root / "full" / ".ipynb_checkpoints").mkdir(parents=True)
    (gateway.root / "full" / "file").touch()
    refusal = await ui.api("DELETE", "contents/full", expect=400)
    assert "full not empty" in refusal["message"]
    await ui.api("DELETE", "contents/full/file", expect=204)
    await ui.api("DELETE", "contents/full", expect=204)
    assert not (gateway.root / "full").exists()


async def test_rename_does_not_overwrite(ui, gateway):
    (gateway.root / "one").write_text("1")
    (gateway.root / "two").write_text("2")
    refusal = await ui.api("PATCH", "contents/one", {"path": "two"}, expect=409)
    assert "already exists: two" in refusal["message"]
    model = await ui.api("PATCH", "contents/one", {"path": "three"})
    assert model["path"] == "three"
    assert (gateway.root / "three").read_text() == "1"


async def test_copy_gets_a_free_name_and_takes_directories(ui, gateway):
    tree = gateway.root / "tree"
    tree.mkdir()
    (tree / "x.tar.gz").write_text("x")
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "deep" / "er" / "y").write_text("y")
    for expected in ("x-Copy1.tar.gz", "x-Copy2.tar.gz"):
        model = await ui.api("POST", "contents/tree", {"copy_from": "tree/x.tar.gz"}, expect=201)
        assert model["name"] == expected
    model = await ui.api("POST", "contents/", {"copy_from": "tree"}, expect=201)
    assert model["path"] == "tree-Copy1"
    assert len(list((gateway.root / "tree-Copy1").iterdir())) == 4
    assert (gateway.root / "tree-Copy1" / "deep" / "er" / "y").read_text() == "y"
    refusal = await ui.api("POST", "contents/tree/deep", {"copy_from": "tree"}, expect=400)
    assert "into itself" in refusal["message"]


async def test_save_waits_for_a_session_on_the_move(ui, gateway):
    gateway.busy = 5
    await ui.api("PUT", "contents/moved.txt", text_file("kept"), expect=201)
    assert gateway.busy == 0
    assert (gateway.root / "moved.txt").read_text() == "kept"


async def test_save_waits_for_a_gateway_that_restarts(ui, gateway: Gateway):
    await gateway.stop()
    save = asyncio.create_task(ui.api("PUT", "contents/r.txt", text_file("kept"), expect=201))
    await asyncio.sleep(0.3)  # long enough for the request to find nobody
    assert not save.done()
    await gateway.start()
    await save
    assert (gateway.root / "r.txt").read_text() == "kept"


async def test_append_whose_answer_was_lost_is_applied_once(ui, gateway):
    def chunk(text: str, number: int) -> dict:
        return {**text_file(text), "chunk": number}

    await ui.api("PUT", "contents/once.txt", chunk("one ", 1), expect=201)
    gateway.swallow.add("append")
    await ui.api("PUT", "contents/once.txt", chunk("two", -1))
    assert not gateway.swallow
    assert (gateway.root / "once.txt").read_text() == "one two"


async def test_operation_whose_answer_was_lost_succeeds(ui, gateway):
    (gateway.root / "lost").mkdir()
    gateway.swallow = {"mkdir", "PUT", "rename", "copy", "DELETE"}
    await ui.api("PUT", "contents/lost/d", {"type": "directory"}, expect=201)
    await ui.api("PUT", "contents/lost/f", text_file("x"), expect=201)
    await ui.api("PATCH", "contents/lost/f", {"path": "lost/g"})
    await ui.api("POST", "contents/lost", {"copy_from": "lost/g"}, expect=201)
    await ui.api("DELETE", "contents/lost/g", expect=204)
    assert not gateway.swallow
    assert sorted(os.listdir(gateway.root / "lost")) == ["d", "g-Copy1"]


async def test_refusal_of_the_gateway_reaches_the_user_in_words(ui, gateway):
    refusal = await ui.api("PUT", "contents/no/such/file", text_file("x"), expect=404)
    assert "There is no directory such" in refusal["message"]
