"""What operators see: metrics, health, and a message's way through the logs of all parts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from system.fixtures import end
from system.running import System

SECRET = "what-the-user-typed-is-nobodys-business"
WAY = [
    "ui.from_browser",
    "ui.to_gateway",
    "gateway.from_client",
    "gateway.journaled",
    "gateway.to_agent",
    "agent.to_shim",
]
BACK = ["agent.from_shim", "gateway.recorded", "gateway.to_client", "ui.to_browser"]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system that logs all there is, as JSON. Messages go the same way in either runtime, and
    this one starts faster."""
    state = tmp_path_factory.mktemp("told") / "state"
    flags = ("--log-format", "json", "--log-level", "debug", "--runtime", "process")
    # Of a gateway that somebody runs by hand: the one of `up` must not heed it.
    environ = {"KG_BASE_URL": "/elsewhere", "KG_AUTH_TOKEN": SECRET}
    system = System(state, *flags, environ=environ).start()
    yield system
    end(system)


def lines(system: System) -> list[dict[str, Any]]:
    """All that the parts have logged, in order of time."""
    logs = (system.state.path / "logs").glob("*.log")
    found = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return sorted(found, key=lambda line: line["time"])


def metrics(system: System) -> dict[str, float]:
    """`name{label}` → value."""
    status, content = system.request("GET", "/metrics", server="gateway")
    assert status == 200
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(content.decode())
        for sample in family.samples
    }


async def test_a_message_is_followed_from_browser_to_kernel_and_back(told: System) -> None:
    await told.call("GET", "/api/kernelspecs")
    async with told.kernel() as kernel:
        cell = await kernel.run(f"print('{SECRET}')")
        node = (await told.running())["node"]
        # Logs are written before a message goes on: all hops of what has arrived are there.
        trace = [line for line in lines(told) if line.get("kernel_id") == kernel.id]
    there = [line for line in trace if line.get("msg_id") == cell.msg_id]
    assert [line["hop"] for line in there] == WAY
    assert [line["part"] for line in there] == ["ui", "ui", "gateway", "gateway", "gateway", node]
    assert {line["msg_type"] for line in there} == {"execute_request"}
    (number,) = {line["number"] for line in there if "number" in line}
    applied = [line["number"] for line in trace if line["hop"] == "shim.applied"]
    assert max(applied) >= number
    printed = [line for line in trace if line.get("parent_id") == cell.msg_id and is_stream(line)]
    assert [line["hop"] for line in printed] == BACK
    (said_as,) = {line["msg_id"] for line in printed}
    assert said_as
    (cursor,) = {line["cursor"] for line in printed if "cursor" in line}
    assert cursor > 0


def is_stream(line: dict[str, Any]) -> bool:
    return line.get("msg_type") == "stream"


async def test_every_line_of_every_part_has_the_same_fields_first(told: System) -> None:
    parts = {line["part"] for line in lines(told)}
    assert {"up", "gateway", "ui"} < parts  # and the node that had something to tell
    for line in lines(told):
        assert list(line)[:5] == ["time", "level", "part", "logger", "message"]


async def test_no_secret_and_nothing_of_the_users_is_logged_even_at_debug(told: System) -> None:
    async with told.kernel() as kernel:
        await kernel.run(f"x = '{SECRET}'")
    for server in ("ui", "gateway"):
        for token in ("", "a-wrong-token"):
            path = f"/api/kernels?token={token or told.state.token(server)}"
            told.request("GET", path, server=server, token=None)
    tokens = [file.read_text().strip() for file in (told.state.path / "tokens").iterdir()]
    secrets = [*tokens, SECRET, "a-wrong-token", (told.state.path / "master.key").read_text()]
    assert len(secrets) >= 5
    for log in (told.state.path / "logs").iterdir():
        text = log.read_text()
        for secret in secrets:
            assert secret.strip() not in text, log.name


async def test_metrics_tell_kernels_journals_checkpoints_and_recoveries(told: System) -> None:
    async with asyncio.timeout(20):
        while (before := metrics(told))["sessionkeeper_nodes{ready}"] != 2:
            await asyncio.sleep(0.05)  # nothing announces that a node is not suspect any more
    async with told.kernel() as kernel:
        await told.cell(kernel, "x = 1")
        now = metrics(told)
        assert now["sessionkeeper_kernels{idle}"] == 1
        assert now["sessionkeeper_clients"] >= 1
        assert now["sessionkeeper_journal_bytes"] > 0
        assert now["sessionkeeper_journal_lag_messages{request}"] == 0
        requests = "sessionkeeper_messages_total{request}"
        assert now[requests] > before[requests]
        assert now["sessionkeeper_checkpoint_age_seconds"] < 60
        assert now["sessionkeeper_checkpoint_bytes"] > 0
        assert now["sessionkeeper_checkpoint_pause_seconds_count"] > 0
        assert now["sessionkeeper_checkpoint_stored_bytes_total"] > 0
        epoch = (await told.running())["epoch"]
        await told.lose()
        await told.recovered(epoch)
        assert await kernel.ask("x") == "1"
        after = metrics(told)
        assert after["sessionkeeper_recoveries_total{node_lost}"] == 1
        assert after["sessionkeeper_recoveries_total{drain}"] == 0
        assert after["sessionkeeper_recovery_seconds_count{node_lost}"] == 1
        again = await kernel.run("print(2)")
        assert again.text == "2\n"
    assert told.request("GET", "/metrics", server="gateway", token=None)[0] == 401


async def test_health_needs_no_token_and_readiness_says_why_not(told: System) -> None:
    assert told.request("GET", "/healthz", server="gateway", token=None)[0] == 200
    status, content = told.request("GET", "/readyz", server="gateway", token=None)
    assert status == 200
    assert json.loads(content)["ready"] is True
