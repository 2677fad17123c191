"""Says in the store that this gateway runs the session, as long as it does."""

from __future__ import annotations

import asyncio
import logging
import socket

from checkpoint import holder
from checkpoint.errors import CheckpointError
from checkpoint.repository import Repository
from sessionkeeper.keeper.chain import Chain

log = logging.getLogger(__name__)


async def hold(chain: Chain) -> None:
    """Give word, again and again, until cancelled or the session was deleted. That is for people
    and for clean-up, so a store that fails is none of its business.
    """
    repository, where = chain.repository, socket.gethostname()
    while not chain.deleted:
        try:
            await asyncio.to_thread(holder.say, repository, where)
        except CheckpointError as error:
            log.info("session %s: no word given: %s", repository.session_id, error)
        await asyncio.sleep(holder.EVERY)
    await let_go(repository)


async def let_go(repository: Repository) -> None:
    """The session has ended, and nothing of it is left anywhere."""
    try:
        await asyncio.to_thread(holder.take_back, repository)
    except CheckpointError as error:
        log.info("session %s: the word stays: %s", repository.session_id, error)
