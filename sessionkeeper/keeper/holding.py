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


async def take_hold(chain: Chain) -> None:
    """Give the first word, before anything is written. Raises what the store raises."""
    await asyncio.to_thread(holder.say, chain.repository, socket.gethostname())


async def hold(chain: Chain) -> None:
    """Give word again and again, until cancelled or the session was deleted. A store that fails
    meanwhile is others' business: the word that is there says enough.
    """
    while True:
        await asyncio.sleep(holder.EVERY)
        if chain.deleted:
            break
        try:
            await take_hold(chain)
        except CheckpointError as error:
            log.info("session %s: no word given: %s", chain.repository.session_id, error)
    await let_go(chain.repository)


async def let_go(repository: Repository) -> None:
    """The session has ended, and nothing of it is left anywhere."""
    try:
        await asyncio.to_thread(holder.take_back, repository)
    except CheckpointError as error:
        log.info("session %s: the word stays: %s", repository.session_id, error)
