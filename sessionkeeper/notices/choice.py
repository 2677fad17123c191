"""From what an operator says to the sources."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sessionkeeper.notices.aws import Aws
from sessionkeeper.notices.azure import Azure
from sessionkeeper.notices.detect import detected
from sessionkeeper.notices.google import Google
from sessionkeeper.notices.kubernetes import KubernetesWatch
from sessionkeeper.notices.logind import LogindSource
from sessionkeeper.notices.metadata import LINK_LOCAL
from sessionkeeper.notices.notice import NoticeSource
from sessionkeeper.notices.owner import Owner
from sessionkeeper.notices.policy import Policy
from sessionkeeper.notices.signals import Signal
from sessionkeeper.notices.together import Together

__all__ = ["choose"]

log = logging.getLogger(__name__)


def choose(
    names: tuple[str, ...],
    policy: Policy,
    *,
    metadata: str | None,
    grace: float,
    stop: Callable[[], object],
) -> Together:
    """Return the sources of ``names`` and ``policy``.

    ``metadata``: where the cloud's service answers, if not where it always does; ``grace``: seconds
    after SIGTERM, when ``stop`` is called.
    """
    if names == ("auto",):
        names = tuple(detected())
        log.info("notices: %s", ", ".join(names) or "none that this machine has")
    base = metadata or LINK_LOCAL
    makers: dict[str, Callable[[], list[NoticeSource]]] = {
        "aws": lambda: [Aws(base)],
        "google": lambda: [Google(base)],
        "azure": lambda: [Azure(base)],
        "kubernetes": lambda: [KubernetesWatch("pod"), KubernetesWatch("node")],
        "logind": lambda: [LogindSource()],
        "signal": lambda: [Signal(grace, stop)],
        "none": list,
    }
    sources = [one for name in names for one in makers[name]()]
    return Together([*sources, Owner(policy)] if policy else sources)
