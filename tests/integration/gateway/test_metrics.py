"""What is counted of messages: each journaled once, what came again, what was sent again."""

from __future__ import annotations

from pathlib import Path

from gateway_rig import TOKEN, Client, Rig
from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import AsyncHTTPClient

from gateway.frames import DATA, kind_of
from gateway.health import journal_readiness


async def metrics(rig: Rig) -> dict[str, float]:
    """`name{label}` → value. Counters are of the process, which other tests have used."""
    answer = await AsyncHTTPClient().fetch(f"{rig.url}/metrics?token={TOKEN}")
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


async def test_messages_that_come_again_are_counted_and_not_journaled_again(rig: Rig) -> None:
    kernel_id = await rig.start_kernel("bash")
    client = await Client(rig, kernel_id).open()
    await client.run("echo 0")
    before = await metrics(rig)
    await client.ask("echo 1")
    frame = client.unacked.popitem()[1]
    assert client.socket is not None
    await client.socket.send(frame)
    await client.run("echo 2")
    after = await metrics(rig)

    def grew(name: str) -> float:
        return after[name] - before[name]

    assert grew("sessionkeeper_messages_total{request}") == 2
    assert grew("sessionkeeper_messages_deduplicated_total{request}") == 1
    assert grew("sessionkeeper_messages_total{output}") >= 8
    assert after["sessionkeeper_kernels{idle}"] == 1
    assert after["sessionkeeper_clients"] == 1
    assert after["sessionkeeper_journal_lag_messages{request}"] == 0
    await client.close()


async def test_what_a_client_gets_after_it_was_away_is_counted_as_resumed(rig: Rig) -> None:
    kernel_id = await rig.start_kernel("bash")
    client = await Client(rig, kernel_id).open()
    await client.run("echo 1")
    await client.close()
    assert client.cursor is not None
    client.cursor -= 3
    before = await metrics(rig)
    client.notices.clear()
    await client.open()
    after = await metrics(rig)
    resumed = "sessionkeeper_messages_resumed_total{output}"
    assert after[resumed] - before[resumed] == 3
    await client.close()


async def test_what_a_shim_says_again_is_counted_and_not_journaled_again(rig: Rig) -> None:
    kernel_id = await rig.start_kernel("bash")
    channel, frames = rig.kernels.channel(kernel_id), []
    take = channel.receive

    def receive(frame: bytes | memoryview, epoch: int | None = None) -> None:
        frames.append(bytes(frame))
        take(frame, epoch)

    channel.receive = receive  # type: ignore[method-assign]
    client = await Client(rig, kernel_id).open()
    await client.run("echo 1")
    before, cursor = await metrics(rig), channel.outlet.last_cursor
    outputs = [frame for frame in frames if kind_of(frame) == DATA][-3:]
    for frame in outputs:  # as a link does that lost its acknowledgement
        take(frame)
    after = await metrics(rig)
    again = "sessionkeeper_messages_deduplicated_total{output}"
    assert after[again] - before[again] == 3
    assert channel.outlet.last_cursor == cursor
    await client.close()


def test_a_gateway_without_room_for_its_journals_is_not_ready() -> None:
    assert journal_readiness(Path("/proc")).reasons == {"journal": "its disk has 0 MiB left"}
    assert not journal_readiness(Path("/proc/none")).ready
    assert journal_readiness(Path.cwd()).ready
