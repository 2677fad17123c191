"""The client is tried on a stock server, the command line on what people type."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator

import pytest

from sessionkeeper.bench import main
from sessionkeeper.bench.client import Kernel
from sessionkeeper.bench.errors import RunFailed
from sessionkeeper.bench.stacks import Stack, plain_server
from sessionkeeper.bench.wire import decode, encode
from sessionkeeper.up.terminal import Terminal

HEADER = {"msg_id": "a", "msg_type": "execute_request"}


@pytest.fixture
async def stock() -> AsyncIterator[Stack]:
    async with plain_server(Terminal()) as stack:
        yield stack


async def test_cells_of_a_stock_server_are_answered_and_nothing_is_left(stock: Stack) -> None:
    async with Kernel.started(stock.server) as kernel:
        assert (await kernel.info()).ok
        answer = await kernel.run("1+1")
        assert answer.text == "2"
        assert answer.ended >= answer.replied > 0
        assert (await kernel.run("print('a'); print('b')")).text == "a\nb\n"
        with pytest.raises(RunFailed, match="ZeroDivisionError"):
            await kernel.run("1/0")
    assert await stock.server.ask("GET", "/api/kernels") == []


async def test_wrong_request_is_reported_in_the_servers_words(stock: Stack) -> None:
    with pytest.raises(RunFailed, match="404"):
        await stock.server.ask("DELETE", "/api/kernels/6d1f2e1e-0000-4000-8000-000000000000")


@pytest.mark.parametrize("binary", [True, False])
def test_message_comes_back_as_it_was_sent(binary: bool) -> None:
    received = decode(encode(HEADER, {"code": "1+1"}, binary=binary), binary=binary)
    assert received.channel == "shell"
    assert received.request == ""
    assert received.open() == ("execute_request", {"code": "1+1"})


@pytest.mark.parametrize("buffers", [[], [b"xyz"], [b"xyz", b""]])
def test_json_with_buffers_behind_it_is_read(buffers: list[bytes]) -> None:
    message = {"channel": "iopub", "header": HEADER, "parent_header": {"msg_id": "b"}}
    text = json.dumps({**message, "content": {"data": {}}}).encode()
    parts = [text, *buffers]
    starts = [4 * (len(parts) + 1)]
    for part in parts[:-1]:
        starts.append(starts[-1] + len(part))
    frame = struct.pack(f"!{len(parts) + 1}I", len(parts), *starts) + b"".join(parts)
    received = decode(frame, binary=False)
    assert (received.channel, received.request) == ("iopub", "b")
    assert received.open()[1] == {"data": {}}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["memory"],
        ["start", "--runs", "0"],
        ["start", "--runs", "x"],
        ["recovery", "--sizes", ""],
    ],
)
def test_what_cannot_be_measured_is_a_usage_error(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "sessionkeeper bench" in capsys.readouterr().err
