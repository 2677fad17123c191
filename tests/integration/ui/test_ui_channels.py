"""A tab's kernel WebSocket: nothing is lost or doubled, whatever comes and goes behind it."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from conftest import TOKEN, UiServer
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect
from ui_gateway import Gateway, header, until, v1, v1_parts

from gateway import journal
from gateway.frames import IOPUB
from sessionkeeper.ui.positions import Positions

pytestmark = pytest.mark.asyncio(loop_scope="module")

V1 = "v1.kernel.websocket.jupyter.org"


class Tab:
    """A browser tab's connection to one kernel."""

    def __init__(
        self, ui: UiServer, kernel_id: str, session_id: str | None = None, query: str = ""
    ) -> None:
        self.session_id = session_id or uuid.uuid4().hex
        self.url = f"{ui.url}/api/kernels/{kernel_id}/channels?session_id={self.session_id}{query}"
        self.got: list[Any] = []
        self.socket: WebSocketClientConnection | None = None

    async def open(self, subprotocol: str | None = V1) -> Tab:
        self.socket = await websocket_connect(
            HTTPRequest(
                self.url.replace("http", "ws", 1), headers={"Authorization": f"token {TOKEN}"}
            ),
            subprotocols=[subprotocol] if subprotocol else None,
            max_message_size=2**30,
            on_message_callback=self._take,
        )
        self.socket.protocol.stream.set_nodelay(True)  # as browsers do
        return self

    def _take(self, message: Any) -> None:
        if message is not None:
            self.got.append(message)

    def notices(self, name: str) -> list[Any]:
        """What a page is told beside messages."""
        told = [json.loads(one) for one in self.got if isinstance(one, str)]
        return [one[name] for one in told if name in one]

    def texts(self) -> list[str]:
        contents = [json.loads(v1_parts(message)[1][3]) for message in self.got]
        return [content["text"] for content in contents if "text" in content]

    def request(self, code: str, *buffers: bytes) -> bytes:
        asked = header("execute_request", self.session_id)
        return v1("shell", asked, {}, {}, {"code": code}, *buffers)

    async def ask(self, code: str) -> None:
        await self.send(self.request(code))

    async def send(self, message: Any, binary: bool = True) -> None:
        assert self.socket is not None
        await self.socket.write_message(message, binary=binary)

    def close(self) -> None:
        assert self.socket is not None
        self.socket.close()

    def cut(self) -> None:
        """As a network that goes away does."""
        assert self.socket is not None
        self.socket.stream.close()


async def test_bytes_pass_as_they_are(ui, gateway):
    kernel = await gateway.start_kernel()
    tab = await Tab(ui, kernel).open()
    assert tab.socket.selected_subprotocol == V1
    asked = tab.request("1", b"\x00\xffbuffer")
    await tab.send(asked)
    await until(lambda: len(tab.got) == 4)
    assert gateway.compute.applied[-1] == asked
    assert tab.got == gateway.said(kernel)
    tab.close()


async def test_client_without_subprotocol_is_understood(ui, gateway):
    kernel = await gateway.start_kernel()
    tab = await Tab(ui, kernel).open(subprotocol=None)
    message = {
        "header": header("execute_request", tab.session_id),
        "parent_header": {},
        "metadata": {},
    }
    await tab.send(
        json.dumps({**message, "content": {"code": "hi"}, "channel": "shell"}), binary=False
    )
    await until(lambda: len(tab.got) == 4)
    stream = json.loads(tab.got[1])
    assert (stream["channel"], stream["msg_type"]) == ("iopub", "stream")
    assert stream["content"]["text"] == "hi"
    gateway.compute.running[kernel].say(IOPUB, "comm_msg", {}, {}, b"buffer")
    await until(lambda: len(tab.got) == 5)
    assert tab.got[4].endswith(b"buffer")
    tab.close()


async def test_tab_stays_open_while_the_gateway_restarts(ui, gateway: Gateway):
    kernel = await gateway.start_kernel()
    tab = await Tab(ui, kernel).open()
    await tab.ask("before")
    await until(lambda: len(tab.got) == 4)
    await gateway.stop()
    gateway.compute.running[kernel].say(IOPUB, "stream", {}, {"text": "said while away"})
    for number in range(20):
        await tab.ask(f"asked {number}")
    applied = len(gateway.compute.applied)
    await gateway.start()
    await until(lambda: len(tab.got) >= 21 * 4 + 1)
    assert tab.texts() == ["before", "said while away", *(f"asked {n}" for n in range(20))]
    assert len(gateway.compute.applied) == applied + 20
    assert tab.got == gateway.said(kernel)
    tab.close()


async def test_request_whose_acknowledgement_was_lost_is_applied_once(ui, gateway, monkeypatch):
    kernel = await gateway.start_kernel()
    tab = await Tab(ui, kernel).open()
    channel = gateway.kernels.channel(kernel)
    submit = channel.submit

    def submit_and_break(payload: bytes) -> None:
        submit(payload)
        monkeypatch.setattr(channel, "submit", submit)
        gateway.cut()

    monkeypatch.setattr(channel, "submit", submit_and_break)
    await tab.ask("once")
    await tab.ask("more")
    await until(lambda: len(tab.texts()) == 2)
    await until(lambda: len(tab.got) == 8)
    assert tab.texts() == ["once", "more"]
    assert tab.got == gateway.said(kernel)
    tab.close()


async def test_request_of_a_tab_that_closed_is_delivered_when_the_gateway_is_back(ui, gateway):
    kernel = await gateway.start_kernel()
    tab = await Tab(ui, kernel).open()
    await tab.ask("seen")
    await until(lambda: len(tab.got) == 4)
    await gateway.stop()
    asked = tab.request("the last one")
    await tab.send(asked)
    tab.close()
    await gateway.start()
    await until(lambda: asked in gateway.compute.applied)


async def test_request_that_the_next_gateway_has_never_seen_is_asked_again(ui, gateway):
    kernel = await gateway.start_kernel()
    tab = await Tab(ui, kernel).open()
    await tab.ask("before")
    await until(lambda: len(tab.got) == 4)
    applied = len(gateway.compute.applied)
    channel = gateway.kernels.channel(kernel)
    saved = channel.journal.snapshot()  # as it is in the newest checkpoint
    files = {path: path.read_bytes()[:size] for path, size in saved.files}
    channel.detach_node()
    await tab.ask("after")
    await until(lambda: channel.journal.inputs.last == 2)
    await gateway.stop()  # and its machine is lost
    for path, content in files.items():
        path.write_bytes(content)
    journal.begin(channel.journal.directory, saved.origin)
    await gateway.start()
    await until(lambda: tab.texts() == ["before", "after"])
    assert len(gateway.compute.applied) == applied + 1
    tab.close()


@pytest.mark.parametrize("how", ["close", "cut"])
async def test_tab_that_connects_again_gets_what_it_missed(ui, gateway, how):
    kernel = await gateway.start_kernel()
    tab = await Tab(ui, kernel).open()
    await until(lambda: gateway.kernels.channel(kernel).outlet.feeds)
    gateway.output(kernel, "1")
    await until(lambda: tab.texts() == ["1"])
    await confirmed(ui, kernel, tab, 1)
    getattr(tab, how)()
    await until(lambda: not gateway.kernels.channel(kernel).outlet.feeds)
    gateway.output(kernel, "2")
    again = await Tab(ui, kernel, tab.session_id).open()
    await until(lambda: again.texts() == ["2"])
    again.close()


async def test_output_that_a_tab_may_have_shown_before_it_was_cut_off_is_shown_once(ui, gateway):
    kernel = await gateway.start_kernel()
    says = gateway.compute.running[kernel].say
    tab = await Tab(ui, kernel).open()
    cell = header("execute_request", tab.session_id)

    def prints(text: str) -> None:
        says(IOPUB, "stream", cell, {"name": "stdout", "text": text})

    await until(lambda: gateway.kernels.channel(kernel).outlet.feeds)
    says(IOPUB, "status", cell, {"execution_state": "busy"})
    prints("1 ")
    await until(lambda: tab.texts() == ["1 "])
    await confirmed(ui, kernel, tab, 2)
    prints("2 ")
    await until(lambda: tab.texts() == ["1 ", "2 "])
    tab.cut()  # before it is asked whether it has that
    again = await Tab(ui, kernel, tab.session_id).open()
    await until(lambda: again.texts() == ["1 ", "2 "])
    prints("3 ")
    await until(lambda: again.texts() == ["1 ", "2 ", "3 "])
    kinds = [json.loads(v1_parts(message)[1][0])["msg_type"] for message in again.got]
    assert kinds == ["clear_output", "stream", "stream", "stream"]
    again.close()


async def confirmed(ui: UiServer, kernel_id: str, tab: Tab, cursor: int) -> None:
    """Until the tab has confirmed that cursor."""
    positions = Positions(ui.state / "positions")

    def is_there() -> bool:
        position = positions.get(kernel_id, tab.session_id)
        return position is not None and position.cursor == cursor

    await until(is_there)


async def test_tab_goes_on_with_another_ui_server(gateway, tmp_path: Path):
    ui = UiServer(tmp_path / "state", gateway.url)
    await ui.start()
    kernel = await gateway.start_kernel()
    tab = await Tab(ui, kernel).open()
    await tab.ask("first")
    await until(lambda: len(tab.got) == 4)
    await confirmed(ui, kernel, tab, 4)
    await ui.stop(signal.SIGKILL)
    gateway.output(kernel, "meanwhile")
    await ui.start()
    try:
        again = await Tab(ui, kernel, tab.session_id).open()
        await again.ask("second")
        await until(lambda: len(again.texts()) == 2)
        assert again.texts() == ["meanwhile", "second"]
        again.close()
    finally:
        await ui.stop()


async def test_page_is_told_what_is_safe_and_what_it_sends_again_is_applied_once(ui, gateway):
    kernel = await gateway.start_kernel()
    page = await Tab(ui, kernel, query="&numbered=&keeps=").open()
    sent = [page.request(str(number)) for number in range(3)]
    await gateway.stop()
    await page.send("no message", binary=False)
    for message in sent:
        await page.send(message)
    assert page.notices("safe") == []
    before = len(gateway.compute.applied)
    await gateway.start()
    await until(lambda: page.notices("safe")[-1:] == [4])
    page.cut()
    page = await Tab(ui, kernel, page.session_id, query="&numbered=&keeps=").open()
    for message in (*sent[1:], page.request("new")):
        await page.send(message)
    await until(lambda: page.notices("safe")[-1:] == [3])
    codes = [json.loads(v1_parts(one)[1][3])["code"] for one in gateway.compute.applied[before:]]
    assert codes == ["0", "1", "2", "new"]
    page.close()


async def test_new_tab_gets_only_what_comes_from_now_on(ui, gateway):
    kernel = await gateway.start_kernel()
    gateway.output(kernel, "old")
    tab = await Tab(ui, kernel).open()
    await tab.ask("new")
    await until(lambda: len(tab.got) == 4)
    assert tab.texts() == ["new"]
    tab.close()


class Relay:
    """Passes bytes on. After `cut` the connections there are stay open and carry nothing."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._alive: list[asyncio.Event] = []
        self._writers: list[asyncio.StreamWriter] = []
        self.dialled: list[float] = []

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        for dead in self._alive:
            dead.set()
        self.dialled.clear()

    def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers += (writer, up_writer)
        dead = asyncio.Event()
        self._alive.append(dead)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                if b"/channels" in data:
                    self.dialled.append(time.monotonic())
                if not dead.is_set():
                    sink.write(data)
            sink.close()

        await asyncio.gather(
            copy(reader, up_writer), copy(up_reader, writer), return_exceptions=True
        )


async def test_silent_gateway_is_given_up_in_five_seconds(gateway, tmp_path: Path):
    relay = Relay(gateway.port)
    ui = UiServer(tmp_path / "state", await relay.start())
    await ui.start()
    try:
        tab = await Tab(ui, await gateway.start_kernel()).open()
        await tab.ask("before")
        await until(lambda: len(tab.got) == 4)
        relay.cut()
        cut = time.monotonic()
        await tab.ask("after")
        await until(lambda: tab.texts() == ["before", "after"])
        assert relay.dialled[0] - cut < 5.5
        tab.close()
    finally:
        await ui.stop()
        relay.stop()


async def test_message_of_50_megabytes_passes_both_ways(ui, gateway):
    kernel = await gateway.start_kernel()
    tab = await Tab(ui, kernel).open()
    await tab.ask("big 50000000")
    await until(lambda: len(tab.got) == 4, 60)
    assert len(tab.texts()[0]) == 50_000_000
    tab.got.clear()
    asked = tab.request("small", bytes(50_000_000))
    await tab.send(asked)
    await until(lambda: len(tab.got) == 4, 60)
    assert gateway.compute.applied.pop() == asked
    tab.close()


async def test_kernel_that_ended_closes_the_tabs_socket(ui, gateway):
    kernel = await gateway.start_kernel()
    tab = await Tab(ui, kernel).open()
    await tab.ask("alive")
    await until(lambda: len(tab.got) == 4)
    await ui.api("DELETE", f"kernels/{kernel}", expect=204)
    await until(lambda: tab.socket.close_code == 1011)
    assert "does not exist" in tab.socket.close_reason
