"""JupyterHub's view of a session: one UI server that is there as long as the hub wants it.

What can be lost is brought back below the hub, which never learns of it: a node by the gateway, the
UI server by its attendant, the attendant by :meth:`SessionKeeperSpawner.poll`. What has ended, by a
user's or the hub's word, has ended: the UI server is gone, the session hibernates.
"""

# mypy: allow-untyped-calls, disable-error-code="misc"

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from jupyterhub.spawner import Spawner
from tornado import web
from traitlets import Bool, Enum, Float, List, Unicode, default, validate

from gateway import durable
from sessionkeeper.errors import SessionkeeperError, explain
from sessionkeeper.placement import TIER_ORDER
from sessionkeeper.spawner import progress
from sessionkeeper.spawner.claim import claim
from sessionkeeper.spawner.gateway import Gateway
from sessionkeeper.spawner.names import directory_name, session_names
from sessionkeeper.spawner.process import UiProcess, listen

__all__ = ["SessionKeeperSpawner"]

_BINDER = {
    "repo_url": "BINDER_REPO_URL",
    "binder_ref_url": "BINDER_REF_URL",
    "binder_launch_host": "BINDER_LAUNCH_HOST",
    "binder_request": "BINDER_REQUEST",
    "binder_persistent_request": "BINDER_PERSISTENT_REQUEST",
    "binder_client_ip": "BINDER_CLIENT_IP",
}
"""What BinderHub says of a launch (binderhub/launcher.py, `extra_args` in builder.py), and what it
is called in the environment (binderhub/binderspawner_mixin.py)."""

_TOLD = {
    *_BINDER.values(),
    *("JUPYTERHUB_USER", "JUPYTERHUB_SERVER_NAME", "JUPYTERHUB_SERVICE_PREFIX"),
    *("JUPYTERHUB_BASE_URL", "JUPYTERHUB_HOST"),
}
"""What kernels have in their environment, too."""

_SESSION = "SESSIONKEEPER_SESSION"
"""In the environment of a UI server: the session's name."""

_ANYWHERE = {"", "0.0.0.0", "::"}  # noqa: S104 - these are not addresses to connect to


class SessionKeeperSpawner(Spawner):
    """A session at a sessionkeeper gateway, and a UI server for it on the hub's machine."""

    gateway_url = Unicode(
        os.environ.get("SESSIONKEEPER_GATEWAY_URL", ""),
        config=True,
        help="Where the gateway is, as seen from here: `http://host:port`.",
    )
    gateway_token = Unicode(
        os.environ.get("SESSIONKEEPER_GATEWAY_TOKEN", ""),
        config=True,
        help="The gateway's token for operators. No user, and no UI server, gets it.",
    )
    state_directory = Unicode(
        "sessionkeeper-ui",
        config=True,
        help="""
        Where UI servers keep what is theirs, a directory for each: lab settings and layouts,
        cookies, the session's token. Relative to where the hub runs. Only the hub may read it.
        """,
    )
    session_prefix = Unicode(
        "hub",
        config=True,
        help="What the names of sessions begin with; several hubs at one gateway need their own.",
    )
    image = Unicode(
        "",
        config=True,
        help="""
        Image of sessions whose `user_options` have none. Each image has a session of its own: who
        starts a server with another one begins anew, and finds the former when they come back.
        """,
    )
    tiers = List(
        Enum(TIER_ORDER),
        config=True,
        help="Tiers of nodes that sessions may use; all of them when empty.",
    )
    on_stop = Enum(
        ("hibernate", "delete"),
        "hibernate",
        config=True,
        help="""
        What becomes of a session whose server is stopped, by its user, an administrator or the
        culler. `hibernate`: it is saved and its compute released, the next start goes on with it.
        """,
    )
    delete_with_server = Bool(
        True,
        config=True,
        help="Whether sessions are deleted for good with their user or named server.",
    )
    wait_for_node = Float(
        20.0,
        config=True,
        help="""
        Seconds that a start waits for a session that comes back to run. After that the page opens
        all the same, and says there what the session waits for.
        """,
    )
    auth_enabled = Bool(
        True,
        config=True,
        help="""
        Whether people come in by JupyterHub's OAuth. BinderHub without authentication wants False:
        who has `user_options["token"]` is let in.
        """,
    )
    cors_allow_origin = Unicode(
        "",
        config=True,
        help="Without `auth_enabled`: pages of this origin, or `*`, may use the server.",
    )

    _session = ""
    _starting = False
    _over = False

    @default("env_keep")
    def _env_keep_default(self) -> list[str]:
        # What the hub knows, credentials of its own among it, is nothing for UI servers.
        return ["LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "VIRTUAL_ENV"]

    @default("apply_user_options")
    def _apply_user_options_default(self) -> Any:
        return lambda spawner, options: None  # `start` does

    @validate("gateway_url")
    def _check_url(self, proposal: Any) -> str:
        return str(proposal.value).rstrip("/")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._sessions: dict[str, str] = {}
        self._events: list[progress.Event] = []
        self._said = asyncio.Condition()
        self._process: UiProcess | None = None

    @property
    def _gateway(self) -> Gateway:
        return Gateway(self.gateway_url, self.gateway_token)

    @property
    def _ui(self) -> UiProcess:
        if self._process is None:
            place = Path(self.state_directory).absolute()
            self._process = UiProcess(place / directory_name(self.user.name, self.name))
        return self._process

    # -- what the hub keeps in its database ----------------------------------------------------

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._sessions = dict(state.get("sessions", {}))
        self._session = state.get("session", "")

    def get_state(self) -> dict[str, Any]:
        """`sessions`: that of each image, also while no server runs; `session`: that of now."""
        state: dict[str, Any] = super().get_state()
        state["sessions"] = dict(self._sessions)
        if self._session:
            state["session"] = self._session
        return state

    def clear_state(self) -> None:
        """The sessions stay: the next start goes on with them."""
        super().clear_state()
        self._session = ""

    # -- starting ------------------------------------------------------------------------------

    async def start(self) -> tuple[str, int]:
        """Begin or wake the session, start the UI server; where that listens. Raises
        `SessionkeeperError` with words for the user, HTTP status 400 for options that are missing.
        """
        self._starting, self._over = True, False
        self._events = []
        try:
            image = self._check_options()
            await self._ui.stop()  # of a hub that was killed before it knew of it
            token = await self._have_session(image)
            ip: str = self.ip
            if ip in _ANYWHERE:
                ip = "127.0.0.1"
            held = listen(ip)
            self.port = held.getsockname()[1]
            self._ui.start(held, self._command(), self._ui_env(token))
            await self._come_up()
        except SessionkeeperError as error:
            words: Any = error  # the hub's pages show it
            words.jupyterhub_message = f"{error} ({error.hint})" if error.hint else str(error)
            raise
        finally:
            self._starting = False
        return ip, self.port

    def _check_options(self) -> str:
        options = self.user_options
        missing = [one for one in ("image", "token") if not options.get(one)]
        if not self.auth_enabled and missing:
            raise web.HTTPError(400, f"{' and '.join(missing)} required")
        return str(options.get("image") or self.image)

    async def _have_session(self, image: str) -> str:
        """The session's token; `self._session` is its name."""
        wish = {
            "owner": self.user.name,
            "image": image or None,
            "tiers": list(self.tiers) or None,
            "guarantee": int(self.mem_guarantee) if self.mem_guarantee else None,
            "limit": int(self.mem_limit) if self.mem_limit else None,
            "cores": float(self.cpu_guarantee) if self.cpu_guarantee else None,
            "environment": self._kernel_environment(),
        }
        wish = {what: said for what, said in wish.items() if said is not None}
        others = self._of_other_servers()
        names = session_names(self.session_prefix, self.user.name, self.name, image)
        try:
            kept = self._file("token").read_text()
        except OSError:
            kept = None
        name, token = await claim(
            self._gateway,
            self._sessions.get(image),
            (one for one in names if one not in others),
            wish,
            kept,
            lambda text: self._say({"progress": 10, "message": text}),
        )
        self._session = self._sessions[image] = name
        durable.replace(self._file("token"), token)
        return token

    def _kernel_environment(self) -> dict[str, str]:
        """What user code sees of the hub: names and places, and no token."""
        env = self.get_env()
        return {name: env[name] for name in sorted(env.keys() & _TOLD) if env[name]}

    def _of_other_servers(self) -> set[str]:
        """Sessions of this user's other servers: one that was renamed keeps those of its former
        name.
        """
        states = [
            one.state or {} for name, one in self.user.orm_spawners.items() if name != self.name
        ]
        return {name for state in states for name in state.get("sessions", {}).values()}

    def _file(self, name: str) -> Path:
        self._ui.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._ui.home / name

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "sessionkeeper.ui.hub"]

    def _ui_env(self, token: str) -> dict[str, str]:
        env = {
            **self.get_env(),
            "SESSIONKEEPER_STATE": str(self._ui.home / "ui"),
            "SESSIONKEEPER_GATEWAY_URL": self.gateway_url,
            "SESSIONKEEPER_GATEWAY_TOKEN": token,
            _SESSION: self._session,
            "SESSIONKEEPER_PORT": str(self.port),
        }
        if not self.auth_enabled:
            env["SESSIONKEEPER_TOKEN"] = str(self.user_options["token"])
            env["SESSIONKEEPER_ALLOW_ORIGIN"] = self.cors_allow_origin
        return {name: str(value) for name, value in env.items()}

    def get_env(self) -> dict[str, Any]:
        """As the hub has it, with what BinderHub says of the launch."""
        env: dict[str, Any] = super().get_env()
        for option, name in _BINDER.items():
            if self.user_options.get(option):
                env[name] = str(self.user_options[option])
        return env

    async def _come_up(self) -> None:
        """Wait until the session runs, if it wants to; not for ever."""
        waking = asyncio.ensure_future(self._gateway.resume(self._session))
        try:
            async with asyncio.timeout(self.wait_for_node):
                async with contextlib.aclosing(self._gateway.statuses(self._session)) as statuses:
                    async for status in statuses:
                        why = None
                        if status["state"] == "waiting":
                            found = await self._gateway.session(self._session)
                            why = found and found["why"]
                        await self._say(progress.told(status, why))
                        if progress.is_there(status):
                            break
                await waking
        except TimeoutError:
            if waking.done():
                waking.result()  # why it did not come up
            await self._say({"progress": 80, "message": "The session still waits for a node"})
        finally:
            waking.cancel()

    async def _say(self, event: progress.Event) -> None:
        async with self._said:
            if not self._events or self._events[-1] != event:
                self._events.append(event)
                self._said.notify_all()

    async def progress(self) -> AsyncGenerator[progress.Event, None]:
        """What happens to the session while the server starts; the hub ends it."""
        told = 0
        while True:
            async with self._said:
                await self._said.wait_for(lambda: len(self._events) > told)  # noqa: B023
                new, told = self._events[told:], len(self._events)
            for event in new:
                yield event

    # -- while it runs -------------------------------------------------------------------------

    async def poll(self) -> int | None:
        """None while the server is to run: what of it was lost is started again here. Its exit
        status once it has ended for good; the session is at rest then.
        """
        if self._starting:
            return None
        status = self._ui.poll()
        if status is not None:
            await self._rest()
        return status

    async def get_url(self) -> str:
        """Asked by a hub that was restarted, perhaps in the middle of a start."""
        address = self._ui.address()
        if address is not None and self.server is not None:
            self.server.ip, self.server.port = address
        return str(self.server.url)

    # -- ending --------------------------------------------------------------------------------

    async def stop(self, now: bool = False) -> None:
        """End the UI server, then have the session hibernate, or delete it."""
        await self._ui.stop()  # first: an open page would wake the session
        await self._rest()

    async def _rest(self) -> None:
        # A hub that was killed in the middle of a start may not know of it.
        name = self._session or self._ui.environ().get(_SESSION, "")
        if not name or self._over:
            return
        self._over = True
        try:
            if self.on_stop == "delete":
                await self._forget(name)
            else:
                await self._gateway.hibernate(name)
        except SessionkeeperError as error:
            # The server has ended all the same, and the next start finds the session as it is.
            self.log.error("%s: session %s goes on: %s", self._log_name, name, explain(error))

    async def delete_forever(self) -> None:
        """The user or the named server is deleted: its sessions, too."""
        if self.delete_with_server:
            for name in list(self._sessions.values()):
                await self._forget(name)
        shutil.rmtree(self._ui.home, ignore_errors=True)

    async def _forget(self, name: str) -> None:
        await self._gateway.delete(name)
        self._sessions = {image: one for image, one in self._sessions.items() if one != name}

    async def rename(self, old_name: str, new_name: str) -> None:
        """The server, which is stopped, keeps its sessions and the directory of its UI server."""
        place = self._ui.home
        if place.exists():
            place.rename(place.parent / directory_name(self.user.name, new_name))
        self._process = None
