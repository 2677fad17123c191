"""A node's side: what runs kernels, and what takes and restores checkpoints there."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from sessionkeeper.settings import AgentSettings

__all__ = ["run"]


def run(settings: AgentSettings) -> None:
    """Offer this node to the gateway until SIGTERM, or what that gives time for is done."""
    import uvloop

    from sessionkeeper.agent.agent import Agent
    from sessionkeeper.agent.offer import offer
    from sessionkeeper.notices.choice import choose

    async def main() -> None:
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
            asyncio.get_running_loop().add_signal_handler(number, agent.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await Agent(settings, offer(settings), notices).run()

    uvloop.run(main())
