"""Nodes that vanish under real kernels: what is run again, and what a client sees of it.

The new incarnation is a fresh kernel that claims the positions of a checkpoint: what its variables
would be is the engines' matter, what is said twice or not at all is the gateway's.
"""

from __future__ import annotations

from gateway_rig import TOKEN, Client, Rig
from tornado.httpclient import HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient


async def lose_the_node(rig: Rig, kernel_id: str, next_seq: int, applied: int) -> None:
    """Pull the plug; bring the kernel back at the positions of a checkpoint, one epoch on."""
    await rig.agent.pull_the_plug(kernel_id)
    channel = rig.kernels.channel(kernel_id)
    channel.detach_node()
    rig.keeper.epoch += 1
    await rig.agent.start(kernel_id, "python3", rig.keeper.epoch, next_seq, applied)
    rig.keeper.attach(kernel_id)


async def test_cells_after_the_checkpoint_run_again_and_are_shown_once(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    finished = await client.run("x = 1\nprint('finished')")
    running = await client.ask(
        "import time\nprint('one', flush=True)\ntime.sleep(.5)\nprint('two', x)"
    )
    await client.until(lambda: client.text(running) == "one\n")
    waiting = await client.ask("print('waited')")
    await client.until(lambda: not client.unacked)
    before = list(client.of(finished))
    await lose_the_node(rig, kernel_id, next_seq=1, applied=0)
    await client.until(lambda: client.is_done(running) and client.is_done(waiting))
    assert client.of(finished) == before
    assert client.text(running) == "one\ntwo 1\n"
    assert client.kinds(running).count("execute_reply") == 1
    assert client.text(waiting) == "waited\n"
    (rollback,) = rig.keeper.rollbacks
    assert rollback.mode == "replay"
    assert (rollback.epoch, rollback.applied) == (2, 0)
    assert [(r.summary, r.finished) for r in rollback.rerun] == [
        ("x = 1", True),
        ("import time", False),
        ("print('waited')", False),
    ]
    # A client that opens the notebook now sees the same, once.
    await client.close()
    later = await Client(rig, kernel_id).open(cursor=0)
    await later.until(lambda: later.is_done(waiting))
    assert later.text(running) == "one\ntwo 1\n"
    assert later.kinds(finished) == client.kinds(finished)
    await later.close()


async def test_stop_runs_nothing_again_and_says_so(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    rig.kernels.channel(kernel_id).mode = "stop"
    client = await Client(rig, kernel_id).open()
    await client.run("open('ran', 'a').write('x')")
    folder = rig.agent.shims[kernel_id].folder
    code = (
        f"open('{folder}/ran', 'a').write('x')\nprint(1, flush=True)\nimport time\ntime.sleep(60)"
    )
    running = await client.ask(code)
    queued = await client.ask("print('never')")
    await client.until(lambda: client.text(running) and not client.unacked)
    await lose_the_node(rig, kernel_id, next_seq=1, applied=0)
    await client.until(lambda: client.is_done(running) and client.is_done(queued))
    for msg_id in (running, queued):
        assert client.reply(msg_id)["ename"] == "NodeLost"
        assert "nothing was run again (on_rollback=stop)" in client.reply(msg_id)["evalue"]
    after = await client.run(f"print(open('{folder}/ran').read())")
    assert client.text(after) == "xx\n"
    assert rig.keeper.rollbacks[0].mode == "stop"
    assert [r.finished for r in rig.keeper.rollbacks[0].rerun] == [True, False, False]
    await client.close()


async def test_inputs_covered_by_a_checkpoint_are_not_run_again(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    await client.run("print('covered')")
    shim = rig.agent.shims[kernel_id].client
    assert shim is not None
    at = await shim.call("status")
    rig.kernels.channel(kernel_id).release(at["applied"], at["produced"])
    last = await client.run("print('after')")
    seen = len(client.of(last))
    await lose_the_node(rig, kernel_id, at["produced"] + 1, at["applied"])
    msg_id = await client.run("print('on')")
    assert client.text(msg_id) == "on\n"
    assert len(client.of(last)) == seen
    assert [r.summary for r in rig.keeper.rollbacks[0].rerun] == ["print('after')"]
    await client.close()


async def test_planned_move_is_no_rollback(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    await client.run("print('before')")
    shim = rig.agent.shims[kernel_id].client
    assert shim is not None
    at = await shim.call("status")
    await lose_the_node(rig, kernel_id, at["produced"] + 1, at["applied"])
    msg_id = await client.run("print('after')")
    assert client.text(msg_id) == "after\n"
    assert rig.keeper.rollbacks == []
    await client.close()


async def test_requests_wait_while_there_is_no_node(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    await client.run("1")
    shim = rig.agent.shims[kernel_id].client
    assert shim is not None
    at = await shim.call("status")
    await rig.agent.pull_the_plug(kernel_id)
    rig.kernels.channel(kernel_id).detach_node()
    msg_id = await client.ask("print('waited for a node')")
    await client.until(lambda: not client.unacked)
    assert rig.keeper.wants == ["execute_request"]
    rig.keeper.epoch += 1
    await rig.agent.start(kernel_id, "python3", 2, at["produced"] + 1, at["applied"])
    rig.keeper.attach(kernel_id)
    await client.until(lambda: client.is_done(msg_id))
    assert client.text(msg_id) == "waited for a node\n"
    await client.close()


async def test_rollback_and_gateway_restart_at_once(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    finished = await client.run("print('finished')")
    before = list(client.of(finished))
    assert rig.agent.link is not None
    await rig.restart_gateway()
    await rig.agent.link.wait_closed()
    await rig.agent.pull_the_plug(kernel_id)
    rig.keeper.epoch = 2
    await rig.agent.start(kernel_id, "python3", 2, 1, 0)
    await rig.agent.dial()
    await client.open()
    msg_id = await client.run("print('on')")
    assert client.text(msg_id) == "on\n"
    assert client.of(finished) == before
    assert [r.finished for r in rig.keeper.rollbacks[0].rerun] == [True]
    await client.close()


async def test_kernel_killed_for_memory_comes_back_without_what_killed_it(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    rig.keeper.comes_back = "The kernel ran out of memory and went back to its checkpoint."
    client = await Client(rig, kernel_id).open()
    await client.run("print('fine')")
    msg_id = await client.ask("import os\nos.kill(os.getpid(), 9)")
    await client.until(lambda: client.is_done(msg_id))
    assert "out of memory" in client.reply(msg_id)["evalue"]
    assert rig.keeper.exits[0].signal == 9
    await rig.agent.stop(kernel_id)
    rig.kernels.channel(kernel_id).detach_node()
    rig.keeper.epoch += 1
    await rig.agent.start(kernel_id, "python3", 2, 1, 0)
    rig.keeper.attach(kernel_id)
    after = await client.run("print('alive')")
    assert client.text(after) == "alive\n"
    assert len(rig.keeper.exits) == 1
    await client.close()


async def test_cell_that_would_never_end_but_for_its_interrupt_does_not_block_the_kernel(
    rig: Rig,
) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    loops = await client.ask("print('begun', flush=True)\nwhile True: pass")
    await client.until(lambda: client.text(loops) == "begun\n")
    refused = await client.ask("open('wrong', 'w')")
    await client.until(lambda: not client.unacked)
    interrupt = HTTPRequest(
        f"{rig.url}/api/kernels/{kernel_id}/interrupt?token={TOKEN}", "POST", body=b"{}"
    )
    assert (await SimpleAsyncHTTPClient().fetch(interrupt)).code == 204
    await client.until(lambda: client.is_done(refused))
    assert client.reply(loops)["ename"] == "KeyboardInterrupt"
    assert client.reply(refused)["status"] == "aborted"
    await lose_the_node(rig, kernel_id, next_seq=1, applied=0)
    after = await client.run("import os; print(os.path.exists('wrong'))")
    assert client.text(after) == "False\n"
    (rollback,) = rig.keeper.rollbacks
    assert [r.summary for r in rollback.interrupted] == ["print('begun', flush=True)"]
    assert client.kinds(loops).count("execute_reply") == 1
    await client.close()
