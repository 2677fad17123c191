"""The workspace is one: what a kernel writes and what the UI saves are the same files, whatever
happens to nodes and servers."""

from __future__ import annotations

import base64
import os

import pytest
from system.folder import Folder
from system.running import System

pytestmark = pytest.mark.container


async def test_kernel_and_file_browser_see_the_same_files(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await kernel.ask("open('kernel.txt', 'w').write('from the kernel')")
        assert "kernel.txt" in await folder.names()
        assert await folder.read("kernel.txt") == "from the kernel"
        await folder.write("browser.txt", "from the browser")
        assert await kernel.ask("open('browser.txt').read()") == "'from the browser'"
        await folder.write("kernel.txt", "changed")
        assert await kernel.ask("open('kernel.txt').read()") == "'changed'"
        await folder.delete("kernel.txt")
        assert await kernel.ask("import os; sorted(os.listdir())") == "['browser.txt']"


async def test_upload_in_pieces_arrives_whole(system: System, folder: Folder):
    content = os.urandom(3_000_000)
    cut = 1_200_000
    path = f"/api/contents/{folder.name}/large.bin"
    async with system.kernel(path=folder.name) as kernel:
        for number, piece in ((1, content[:cut]), (2, content[cut : 2 * cut])):
            await system.call("PUT", path, piece_of(number, piece))
        await system.call("PUT", path, piece_of(-1, content[2 * cut :]))
        await kernel.ask("import hashlib; data = open('large.bin', 'rb').read()")
        assert await kernel.ask("len(data)") == str(len(content))
    model = await folder.model("large.bin", "?type=file&format=base64")
    assert base64.b64decode(model["content"]) == content


def piece_of(number: int, content: bytes) -> dict[str, object]:
    """A part of an upload, as JupyterLab sends large files; -1 is the last."""
    text = base64.b64encode(content).decode()
    return {"type": "file", "format": "base64", "chunk": number, "content": text}


@pytest.mark.parametrize("loss", ["drain", "kill"])
async def test_files_of_both_survive_the_node(system: System, folder: Folder, loss: str):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "open('kernel.txt', 'w').write('before')")
        # Nothing waits for a checkpoint of this one: a save that was answered is kept.
        await folder.write("browser.txt", "saved just before")
        node = (await system.running())["node"]
        await (system.drain(node) if loss == "drain" else system.kill(node))
        assert await kernel.ask("open('browser.txt').read()") == "'saved just before'"
        assert await kernel.ask("open('kernel.txt').read()") == "'before'"
        assert await folder.names() == {"kernel.txt", "browser.txt"}


async def test_files_survive_a_restart_of_the_ui_server(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await kernel.ask("open('kernel.txt', 'w').write('1')")
        await folder.write("browser.txt", "2")
        system.kill_part("ui")
        await system.until(lambda s: s["state"] == "running", server="ui")
        assert await folder.names() == {"kernel.txt", "browser.txt"}
        assert (await folder.read("kernel.txt"), await folder.read("browser.txt")) == ("1", "2")


async def test_file_browser_works_while_no_node_is_alive(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "open('kernel.txt', 'w').write('old'); n = 1")
        await folder.write("browser.txt", "unchanged")
        for node in ("node-1", "node-2"):
            await system.kill(node)
        await system.until(lambda s: s["state"] == "waiting")

        assert await folder.names() == {"kernel.txt", "browser.txt"}
        assert await folder.read("kernel.txt") == "old"
        await folder.write("kernel.txt", "new")
        await folder.write("meanwhile.txt", "made without a node")
        await folder.delete("browser.txt")
        assert await folder.read("kernel.txt") == "new"
        assert await folder.names() == {"kernel.txt", "meanwhile.txt"}

        await system.start_node("node-1")
        assert await kernel.ask("open('kernel.txt').read()") == "'new'"
        assert await kernel.ask("open('meanwhile.txt').read()") == "'made without a node'"
        assert await kernel.ask("import os; os.path.exists('browser.txt')") == "False"
        assert await kernel.ask("n") == "1"


async def test_save_while_the_session_moves_is_kept(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "n = 1")
        node = await system.lose()
        await folder.write("browser.txt", "saved while the node was gone")
        assert await kernel.ask("open('browser.txt').read()") == "'saved while the node was gone'"
        assert (await system.running())["node"] != node


async def test_save_into_a_directory_that_no_checkpoint_has_is_kept(system: System, folder: Folder):
    """The kernel made the directory in a cell that still ran when its node was lost."""
    inner = Folder(system, f"{folder.name}/made")
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "import os")
        cell = await kernel.send(
            "os.makedirs('made', exist_ok=True)\nprint('made', flush=True)\n"
            "while not os.path.exists('enough'): pass"
        )
        await cell.until(lambda one: "made" in one.text)
        await inner.write("browser.txt", "saved")
        await system.lose()
        await folder.write("enough", "")
        await cell.end()
        assert await inner.read("browser.txt") == "saved"
        assert await kernel.ask("open('made/browser.txt').read()") == "'saved'"


async def test_save_into_such_a_directory_can_be_read_while_no_node_is_alive(
    system: System, folder: Folder
):
    inner = Folder(system, f"{folder.name}/made")
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "import os")
        cell = await kernel.send("os.makedirs('made', exist_ok=True)\nprint(1)\nwhile True: pass")
        await cell.until(lambda one: "1" in one.text)
        await inner.write("browser.txt", "saved")
        for node in ("node-1", "node-2"):
            await system.kill(node)
        await system.until(lambda s: s["state"] == "waiting")
        assert await inner.read("browser.txt") == "saved"
        await system.heal()
        await cell.until(lambda one: "1" in one.text)
        await system.call("POST", f"/api/kernels/{kernel.id}/interrupt")
        await cell.end()


async def test_saved_file_belongs_to_the_user_of_the_kernel(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await folder.write("browser.txt", "a")
        await kernel.ask("open('browser.txt', 'a').write('b')")
        assert await folder.read("browser.txt") == "ab"


async def test_path_out_of_the_workspace_is_refused(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await kernel.ask("import os; os.symlink('/etc/passwd', 'link')")
        shown = await folder.read("link")
        assert shown == await kernel.ask("print(open('/etc/passwd').read(), end='')") + "\n"
        code, _ = system.request("GET", "/api/contents/..%2f..%2fetc%2fpasswd")
        assert code in {400, 403, 404}
