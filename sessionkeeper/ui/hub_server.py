"""JupyterHub's own server extension, with what is different for a session's UI server.

A module of its own, because it takes a second to import, and after what `lean` leaves out.
"""

# mypy: allow-untyped-calls, disable-error-code="misc"

from __future__ import annotations

import os
from typing import Any

from jupyterhub.singleuser.extension import JupyterHubSingleUser
from tornado import web
from traitlets.config import Config

from sessionkeeper.ui.handlers import FEED
from sessionkeeper.ui.identity import TokenIdentity

__all__ = ["ALLOW_ORIGIN", "TOKEN", "HubServer", "HubToken"]

TOKEN, ALLOW_ORIGIN = "SESSIONKEEPER_TOKEN", "SESSIONKEEPER_ALLOW_ORIGIN"
"""In the environment: see `sessionkeeper.ui.hub`."""


class HubToken(TokenIdentity):
    """Who has the token is let in, as BinderHub's pages expect."""

    def page_config_hook(self, handler: Any, page_config: dict[str, Any]) -> dict[str, Any]:
        """The page is told nothing of the hub: who has only the token cannot go there."""
        return page_config


class HubServer(JupyterHubSingleUser):
    """JupyterHub's own extension; what remote kernels do is activity, too."""

    def load_config_file(self) -> None:
        super().load_config_file()
        if TOKEN in os.environ:
            origin = os.environ.get(ALLOW_ORIGIN, "")
            own = {"identity_provider_class": HubToken, "allow_origin": origin}
            if origin == "*":  # which is not enough for files (github.com/jupyter/notebook, 5898)
                own["allow_origin_pat"] = ".*"
            self.serverapp.update_config(Config(ServerApp=own))

    async def notify_activity(self) -> None:
        """Tell the hub. Without a page nobody else asks what kernels do."""
        server = self.serverapp
        # One that hibernates in the middle of a cell is busy and does nothing.
        if server.web_app.settings[FEED].status.get("state") != "hibernated":
            try:
                await server.kernel_manager.look_for_activity()
            except web.HTTPError as error:
                self.log.warning("What kernels do is not known: %s", error.log_message)
        await super().notify_activity()


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    return [{"module": __name__, "app": HubServer}]
