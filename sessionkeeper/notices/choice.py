"""From what an operator says to the sources."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module

from sessionkeeper.errors import UsageError
from sessionkeeper.notices.detect import detected
from sessionkeeper.notices.notice import NoticeSource
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
    asked = names != ("auto",)
    if not asked:
        names = tuple(detected())
        log.info("notices: %s", ", ".join(names) or "none that this machine has")
    sources: list[NoticeSource] = []
    for name in names:
        try:
            sources += _made(name, metadata, grace, stop)
        except UsageError as error:
            if asked:
                raise
            log.warning("%s (%s)", error, error.hint)  # nobody asked for it
    if policy:
        from sessionkeeper.notices.owner import Owner

        sources.append(Owner(policy))
    return Together(sources)


def _made(
    name: str, metadata: str | None, grace: float, stop: Callable[[], object]
) -> list[NoticeSource]:
    # Imported where they are wanted: HTTP and D-Bus cost 8 MB of memory on every node.
    if name in ("aws", "google", "azure"):
        module = import_module(f"sessionkeeper.notices.{name}")
        kind = getattr(module, name.capitalize())
        return [kind(metadata) if metadata else kind()]
    if name == "kubernetes":
        try:
            from sessionkeeper.notices.kubernetes import KubernetesWatch
        except ImportError as error:
            hint = "pip install 'sessionkeeper[kubernetes]', or leave it out of --notices"
            raise UsageError(f"--notices kubernetes: {error}", hint=hint) from None

        return [KubernetesWatch("pod"), KubernetesWatch("node")]
    if name == "logind":
        from sessionkeeper.notices.logind import LogindSource

        return [LogindSource()]
    return [Signal(grace, stop)] if name == "signal" else []
