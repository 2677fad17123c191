"""Real kernels under the real shim, asked over a WebSocket."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from gateway_rig import Client, Rig, header, pack_v1

LANGUAGES = [
    pytest.param("python3", "print('he' + 'llo')", "hello\n", id="python"),
    pytest.param("bash", "echo hello", "hello\n", id="bash"),
    pytest.param(
        "ir",
        "cat('hello\\n')",
        "hello\n",
        id="R",
        marks=pytest.mark.needs("r"),
    ),
]
PRINTS = """
import os, threading
from IPython.display import display
for i in range(50):
    print(f"p{{i}}")
    display({{"text/plain": f"d{{i}} "}}, raw=True)
    print(f"f{{i}}", flush=True)
def prints(thread):
    for i in range(50):
        print(f"t{{thread}}.{{i}}\\n", end="", flush=i % 3 == 0)
threads = [threading.Thread(target=prints, args=(n,)) for n in range(4)]
[t.start() for t in threads], [t.join() for t in threads]
print(end="", flush=True)  # or the child says it, too
pid = os.fork()
if not pid:
    print("child", flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print("unflushed")
open({seen!r}).read()
"""
SLEEP = {
    "python3": "import time\nprint(1, flush=True)\ntime.sleep(60)",
    "bash": "echo 1; sleep 60",
    "ir": "cat(1); flush.console(); Sys.sleep(60)",
}


@pytest.mark.parametrize(("name", "code", "shown"), LANGUAGES)
async def test_a_kernel_answers_and_is_interrupted(
    rig: Rig, name: str, code: str, shown: str
) -> None:
    kernel_id = await rig.start_kernel(name)
    client = await Client(rig, kernel_id).open()
    msg_id = await client.run(code)
    assert client.text(msg_id) == shown
    assert client.reply(msg_id)["status"] == "ok"
    kinds = client.kinds(msg_id)
    said = [kind for kind in kinds if kind != "execute_reply"]  # which comes over another socket
    assert said[0] == said[-1] == "status"
    assert kinds.count("execute_reply") == 1
    assert client.unacked == {}

    sleeping = await client.ask(SLEEP[name])
    await client.until(lambda: client.text(sleeping))
    assert rig.kernels.model(kernel_id)["execution_state"] == "busy"
    async with asyncio.timeout(30):
        while not client.is_done(sleeping):
            # A shell that is between two commands misses it: one presses the button again.
            await rig.keeper.interrupt(kernel_id)
            with suppress(TimeoutError):
                await client.until(lambda: client.is_done(sleeping), 5)
    assert rig.kernels.model(kernel_id)["execution_state"] == "idle"
    await client.close()


async def test_agent_that_crashes_and_comes_back_costs_no_message(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    msg_id = await client.ask(
        "import time\nfor i in range(200):\n    print(i, flush=True)\n    time.sleep(.01)"
    )
    for round in range(4):
        await client.until(lambda n=round: client.text(msg_id).count("\n") > 20 * (n + 1))
        shim = rig.agent.shims[kernel_id]
        assert shim.client is not None
        if round % 2:
            shim.client.close()
        else:
            assert rig.agent.link is not None
            await rig.agent.link.close()
            await rig.agent.dial()
        await rig.agent.connect(kernel_id)
    await client.until(lambda: client.is_done(msg_id))
    assert client.text(msg_id) == "".join(f"{i}\n" for i in range(200))
    await client.close()


async def test_gateway_that_restarts_costs_no_message(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    msg_id = await client.ask(
        "import time\nfor i in range(200):\n    print(i, flush=True)\n    time.sleep(.01)"
    )
    await client.until(lambda: client.text(msg_id).count("\n") > 20)
    assert rig.agent.link is not None
    await rig.restart_gateway()
    later = await client.ask("print('later')")  # goes nowhere, is sent again
    await rig.agent.link.wait_closed()
    await rig.agent.dial()
    client.notices.clear()
    await client.open()
    assert client.notices[0]["reset"] is False
    await client.until(lambda: client.is_done(msg_id) and client.is_done(later))
    assert client.text(msg_id) == "".join(f"{i}\n" for i in range(200))
    assert client.text(later) == "later\n"
    cursors = [cursor for cursor, _ in client.got]
    assert cursors == sorted(set(cursors))
    await client.close()


async def test_request_without_a_protocol_version_is_answered(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    head = header("execute_request", client.session)
    del head["version"]
    parts = [json.dumps(part).encode() for part in (head, {}, {}, {"code": "print(6 * 7)"})]
    assert client.socket is not None
    await client.socket.send(b"\x01" + bytes(8) + pack_v1("shell", parts))
    await client.until(lambda: client.is_done(head["msg_id"]))
    assert client.text(head["msg_id"]) == "42\n"
    await client.close()


async def test_request_sent_twice_runs_once(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    await client.ask("n = globals().get('n', 0) + 1\nprint(n)")
    frame = client.unacked[1]
    await client.until(lambda: not client.unacked)
    assert client.socket is not None
    await client.socket.send(frame)
    again = await client.run("print('n is', n)")
    assert client.text(again) == "n is 1\n"
    await client.close()


async def test_outputs_while_no_client_is_there_are_kept(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    msg_id = await client.ask("import time\ntime.sleep(.2)\nprint('done in silence')")
    await client.until(lambda: client.of(msg_id))
    await client.close()
    await rig.keeper.until(lambda: "execute_request" in rig.keeper.done)
    await client.open()
    await client.until(lambda: client.is_done(msg_id))
    assert client.text(msg_id) == "done in silence\n"
    await client.close()


async def test_much_output_to_a_client_that_does_not_read_is_kept_on_disk(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    assert client.socket is not None
    client.socket.transport.pause_reading()  # type: ignore[attr-defined]
    msg_id = await client.ask("for i in range(3000):\n    print(str(i).rjust(9999), flush=True)")
    await rig.keeper.until(lambda: "execute_request" in rig.keeper.done)
    (feed,) = rig.kernels.channel(kernel_id).outlet.feeds
    assert feed._outstanding < 8 << 20
    client.socket.transport.resume_reading()  # type: ignore[attr-defined]
    await client.until(lambda: client.is_done(msg_id))
    lines = client.text(msg_id).splitlines()
    assert [int(line) for line in lines] == list(range(3000))
    await client.close()


async def test_shim_holds_the_kernel_back_while_the_gateway_is_away(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    shim = rig.agent.shims[kernel_id]
    assert shim.client is not None
    msg_id = await client.ask(
        "for i in range(12000):\n    print(str(i).rjust(9999), flush=True)\nopen('end', 'w')"
    )
    await client.until(lambda: client.of(msg_id))
    shim.client.pause()
    ceiling = 0
    for _ in range(30):
        await asyncio.sleep(0.05)
        with open(f"/proc/{shim.process.pid}/status") as status:
            rss = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        ceiling = max(ceiling, rss)
    assert not (shim.folder / "end").exists()
    assert ceiling < 250_000
    shim.client.resume()
    await client.until(lambda: client.is_done(msg_id))
    lines = client.text(msg_id).splitlines()
    assert [int(line) for line in lines] == list(range(12000))
    await client.close()


async def test_what_a_cell_prints_stays_in_order_and_is_not_held_back(
    rig: Rig, tmp_path: Path
) -> None:
    """Between displays, of threads and processes of its own, and without a flush."""
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    seen = tmp_path / "seen"
    os.mkfifo(seen)
    msg_id = await client.ask(PRINTS.format(seen=str(seen)))
    await client.until(lambda: "unflushed" in client.text(msg_id))
    await asyncio.to_thread(seen.write_text, "yes")
    await client.until(lambda: client.is_done(msg_id))
    said = [
        content["text"] if "text" in content else content["data"]["text/plain"]
        for content in (message["content"] for message in client.of(msg_id))
        if "text" in content or "data" in content
    ]
    words = "".join(said).split()
    assert [word for word in words if word[0] in "pdf"] == [
        f"{kind}{number}" for number in range(50) for kind in "pdf"
    ]
    assert sorted(word for word in words if word[0] == "t") == sorted(
        f"t{thread}.{number}" for thread in range(4) for number in range(50)
    )
    assert "child" in words
    await client.close()


async def test_lines_that_are_flushed_at_once_come_in_order_and_fewer_messages(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    msg_id = await client.run(
        "import sys\n"
        "for i in range(3000):\n"
        "    stream = sys.stderr if 1000 <= i < 2000 else sys.stdout\n"
        "    print(f'{i} \"\\t\"', file=stream, flush=True)\n"
    )
    assert client.text(msg_id) == "".join(f'{number} "\t"\n' for number in range(3000))
    names = [m["content"]["name"] for m in client.of(msg_id) if "name" in m["content"]]
    assert [name for name, _ in itertools.groupby(names)] == ["stdout", "stderr", "stdout"]
    assert len(names) < 3000
    await client.close()


async def test_kernel_asks_for_input(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    other = await Client(rig, kernel_id).open()
    msg_id = await client.ask("print('you said', input('what? '))")
    await client.until(lambda: "input_request" in client.kinds(msg_id))
    await client.send("input_reply", {"value": "hello", "status": "ok"}, "stdin")
    await client.until(lambda: client.is_done(msg_id))
    assert client.text(msg_id) == "you said hello\n"
    # The other client sees what is for all, and no answer that it did not ask for.
    await other.until(lambda: other.text(msg_id) == "you said hello\n")
    assert "input_request" not in other.kinds(msg_id)
    assert "execute_reply" not in other.kinds(msg_id)
    await client.close()
    await other.close()


async def test_kernel_that_exits_says_so_and_answers_what_waits(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    msg_id = await client.ask("import os\nos._exit(3)")
    await client.until(lambda: client.is_done(msg_id))
    assert client.reply(msg_id)["status"] == "error"
    assert "exited (3)" in client.reply(msg_id)["evalue"]
    await client.until(lambda: client.got[-1][1]["content"].get("execution_state") == "dead")
    assert rig.keeper.exits[0].code == 3
    late = await client.ask("1")
    await client.until(lambda: client.is_done(late))
    assert "has ended" in client.reply(late)["evalue"]
    await rig.kernels.restart(kernel_id, rig.keeper)
    again = await client.run("print('alive')")
    assert client.text(again) == "alive\n"
    await client.close()


async def test_kernel_that_does_not_start_says_why(rig: Rig) -> None:
    await rig.start_kernel("broken")
    await rig.keeper.until(lambda: rig.keeper.exits)
    assert "no such thing as this kernel" in rig.keeper.exits[0].stderr
    assert rig.keeper.exits[0].code == 1


async def test_restart_aborts_what_runs_and_starts_afresh(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    await client.run("x = 1")
    running = await client.ask("import time\ntime.sleep(60)")
    queued = await client.ask("print('never')")
    await client.until(lambda: client.of(running))
    await rig.kernels.restart(kernel_id, rig.keeper)
    await client.until(lambda: client.is_done(running) and client.is_done(queued))
    assert client.reply(running)["ename"] == "KernelRestarted"
    assert client.text(queued) == ""
    after = await client.run("print('x' in globals())")
    assert client.text(after) == "False\n"
    assert rig.keeper.rollbacks == []
    await client.close()


async def test_local_execute_is_silent_and_holds_at_cell_boundaries(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    await client.run("x = 20")
    seen = len(client.got)
    shim = rig.agent.shims[kernel_id].client
    assert shim is not None
    paused = await shim.call("pause_input")
    waiting = await client.ask("x = 99")
    content = await shim.call(
        "execute", code="y = x + 1", user_expressions={"y": "y * 2"}, timeout=10
    )
    assert content["user_expressions"]["y"]["data"]["text/plain"] == "42"
    status = await shim.call("status")
    assert status["applied"] == paused["applied"] == 1
    assert (status["alive"], status["ready"], status["busy"]) == (True, True, False)
    assert len(client.got) == seen
    await shim.call("resume_input")
    await client.until(lambda: client.is_done(waiting))
    msg_id = await client.run("print(x, In[-1])")
    assert client.text(msg_id).startswith("99 print(x")
    await client.close()


async def test_pause_ends_with_the_agent_that_asked_for_it(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    shim = rig.agent.shims[kernel_id]
    assert shim.client is not None
    await shim.client.call("pause_input")
    msg_id = await client.ask("print('on')")
    shim.client.close()
    await rig.agent.connect(kernel_id)
    await client.until(lambda: client.is_done(msg_id))
    assert client.text(msg_id) == "on\n"
    await client.close()


async def test_buffers_of_comm_messages_pass_unchanged(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    msg_id = await client.run(
        "from comm import create_comm\n"
        "c = create_comm(target_name='t', data={}, buffers=[bytes(range(256)) * 4, b'end'])"
    )
    opened = next(m for m in client.of(msg_id) if m["header"]["msg_type"] == "comm_open")
    assert opened["buffers"] == [bytes(range(256)) * 4, b"end"]
    await client.close()


async def test_fifty_megabytes_in_one_message(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    msg_id = await client.run(
        "from IPython.display import display\ndisplay({'text/plain': 'x' * 50_000_000}, raw=True)"
    )
    shown = next(m for m in client.of(msg_id) if m["header"]["msg_type"] == "display_data")
    assert len(shown["content"]["data"]["text/plain"]) == 50_000_000
    await client.close()


async def test_shim_lets_nobody_in_without_the_token(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    reader, writer = await asyncio.open_unix_connection(
        str(rig.agent.shims[kernel_id].folder / "shim.sock")
    )
    frames = (b"wrong", json.dumps({"id": 1, "call": "stop"}).encode())
    writer.write(b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames))
    with suppress(ConnectionResetError):  # it was closed before all of it was read
        assert await reader.read() == b""
    writer.close()
    # ... and whoever is in stays in.
    msg_id = await client.run("print('still here')")
    assert client.text(msg_id) == "still here\n"
    await client.close()
