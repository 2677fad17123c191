"""A node's side: what runs kernels, and what takes and restores checkpoints there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor

from sessionkeeper.settings import AgentSettings

__all__ = ["run"]

THREADS = 64
"""Most of them wait, for runc or the store: what one session needs must not wait for the others."""


def run(settings: AgentSettings) -> None:
    """Offer this node to the gateway until SIGTERM, or what that gives time for is done. Raises
    ``GatewayError`` when the gateway does not let it in any more.
    """
    import uvloop

    from sessionkeeper.agent.agent import Agent
    from sessionkeeper.agent.offer import offer
    from sessionkeeper.notices.choice import choose

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS, "agent"))
        agent = asyncio.current_task()
        assert agent is not None
        notices = choose(
            settings.notices,
            settings.only_when,
            metadata=settings.metadata_url,
            grace=settings.grace,
            stop=agent.cancel,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, agent.cancel)
        if "signal" in settings.notices:
            # Who types Ctrl-C gives notice as well; twice, and it ends at once.
            loop.add_signal_handler(signal.SIGINT, os.kill, os.getpid(), signal.SIGTERM)
        with contextlib.suppress(asyncio.CancelledError):
            await Agent(settings, offer(settings), notices).run()

    uvloop.run(main())
