"""`sessionkeeper node join|leave`: on the machine that is a node."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.identity import NodeKey
from sessionkeeper import logs
from sessionkeeper.agent import unit
from sessionkeeper.agent.membership import Membership, checked_url, enrol, leave_now
from sessionkeeper.duration import parse_duration
from sessionkeeper.errors import AlreadyRunning, UsageError
from sessionkeeper.settings import AgentSettings, default_state, load
from sessionkeeper.up.terminal import Terminal

__all__ = ["join", "leave"]

GRACE = "30s"
NOT_LET_IN = 17
"""The exit code; see `sessionkeeper.errors.EXIT_CODES`."""

TOKEN = "SESSIONKEEPER_JOIN_TOKEN"  # noqa: S105 - the name of a variable


class Home:
    """What this machine keeps of having joined: `directory` is readable for its owner alone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.member = directory / "member.json"
        self.key = directory / "key"
        self.data = directory / "data"
        self._lock = directory / "lock"

    def prepare(self) -> None:
        """Raises UsageError when it cannot be."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            # The kernels' user passes through it; what is secret in it is for its owner alone.
            self.directory.chmod(0o711 if os.geteuid() == 0 else 0o700)
        except OSError as error:
            raise UsageError(
                f"{self.directory} cannot be used: {error.strerror}", hint="choose another --dir"
            ) from None

    def own_key(self) -> NodeKey:
        """The key that this machine joins with; the same one until it has joined."""
        if not self.key.exists():
            with open(os.open(self.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(NodeKey.new().text)
        return NodeKey(self.key.read_text())

    @contextmanager
    def held(self) -> Iterator[None]:
        """While a node runs in it. Raises AlreadyRunning."""
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunning(
                    f"a node runs in {self.directory} already (process {self.holder()})",
                    hint="`sessionkeeper node leave` ends it, or give this one its own --dir",
                ) from None
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
            yield
        finally:
            os.close(handle)

    def holder(self) -> int | None:
        """The process of the node that runs in it; None: none does."""
        try:
            handle = os.open(self._lock, os.O_RDWR)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(os.read(handle, 20) or b"0") or None
        finally:
            os.close(handle)
        return None

    def wait_free(self) -> None:
        """Until no node runs in it any more."""
        with open(self._lock, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)


def join(arguments: Namespace) -> int:
    """Join, unless this machine has, and offer it until it is stopped."""
    terminal, home = Terminal(), Home(_directory(arguments))
    home.prepare()
    if arguments.systemd_unit is None:
        with home.held():
            return _offer(_membership(arguments, home, terminal), arguments, home, terminal)
    member = _membership(arguments, home, terminal)
    _settings(member, arguments, home, "process")  # what is wrong is said now, not in the journal
    return _write_unit(arguments, home, terminal)


def leave(arguments: Namespace) -> int:
    """Drain it, tell the gateway, and forget."""
    terminal, home = Terminal(), Home(_directory(arguments))
    member = Membership.load(home.member)
    if (running := home.holder()) is not None:
        with terminal.step(f"moving away what runs on {member.name}"):
            os.kill(running, signal.SIGTERM)
            home.wait_free()
    leave_now(member)
    for file in (home.member, home.key):
        file.unlink(missing_ok=True)
    if os.path.ismount(home.data / "images"):  # of a node with containers
        subprocess.run(["umount", str(home.data / "images")], check=False)
    shutil.rmtree(home.data, ignore_errors=True)
    terminal.say(f"{member.name} is none of the nodes of {member.url} any more")
    return 0


def _directory(arguments: Namespace) -> Path:
    if arguments.dir:
        return Path(os.path.abspath(Path(arguments.dir).expanduser()))
    return default_state() / "node"


def _membership(arguments: Namespace, home: Home, terminal: Terminal) -> Membership:
    token = _token(arguments)
    if token is None:
        if not home.member.exists():
            raise UsageError(
                "this machine has not joined a gateway yet; it needs a token for that",
                hint="`sessionkeeper node token create` on the gateway's machine makes one",
            )
        member = Membership.load(home.member)
        if arguments.url and arguments.url.rstrip("/") != member.url:
            raise UsageError(f"this machine has joined {member.url}", hint="`node leave` first")
        return member
    if not arguments.url:
        raise UsageError("which gateway? `sessionkeeper node join URL --token TOKEN`")
    checked_url(arguments.url, plain=arguments.without_tls)
    name = arguments.name or host_name(socket.gethostname())
    key = home.own_key()
    with terminal.step(f"joining {arguments.url} as {name}"):
        member = enrol(arguments.url, token, name, arguments.tier, key, plain=arguments.without_tls)
    member.save(home.member)
    home.key.unlink()
    return member


def _token(arguments: Namespace) -> str | None:
    if arguments.token:
        return str(arguments.token)
    if arguments.token_file:
        try:
            return Path(arguments.token_file).expanduser().read_text().strip()
        except OSError as error:
            raise UsageError(f"--token-file: {error.strerror}: {arguments.token_file}") from None
    return os.environ.get(TOKEN) or None


def host_name(name: str) -> str:
    """What a machine of that host name is called as a node."""
    words = re.sub(r"[^a-z0-9]+", "-", name.partition(".")[0].lower()).strip("-")[:32].strip("-")
    return f"host-{words}".rstrip("-") if re.fullmatch(r"node-\d+|", words) else words


def _offer(member: Membership, arguments: Namespace, home: Home, terminal: Terminal) -> int:
    from sessionkeeper import agent, doctor, machine
    from sessionkeeper.agent.namespaces import have_run_in_memory
    from sessionkeeper.nodes import cgroups

    runtime = arguments.runtime or "auto"
    if runtime != "process":  # which any machine can
        with terminal.step("looking at what this machine can do"):
            runtime = doctor.choose_runtime(runtime, machine.examine(home.directory))
    settings = _settings(member, arguments, home, runtime)
    logs.set_up(member.name, "text", settings.log_level, [member.key])
    for line in offered(member, settings, os.cpu_count() or 1, _memory()):
        terminal.say(line)
    if runtime == "process":
        # Before any thread is there: what is started here later has no more than this.
        allowed = sorted(os.sched_getaffinity(0))[: settings.offered_cores]
        os.sched_setaffinity(0, allowed)
    else:
        have_run_in_memory()
    try:
        agent.run(settings)
    finally:
        if runtime == "container":
            cgroups.remove(f"/sessionkeeper/{member.name}")
    terminal.say(f"{member.name} is not offered any more; `sessionkeeper node join` goes on")
    return 0


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def offered(member: Membership, settings: AgentSettings, cores: int, memory: int) -> list[str]:
    """What the owner reads about what is offered to whom; `memory` in bytes."""
    from sessionkeeper.notices.policy import spelled

    gigabytes = (settings.offered_memory or memory) / (1 << 30)
    when = spelled(settings.only_when).replace(",", ", ") if settings.only_when else "always"
    runtime = {
        "container": "containers; kernels can move in the middle of a cell",
        "process": "plain processes, WITHOUT a wall between them and your account",
    }[settings.runtime]
    return [
        f"node      {member.name}, of the tier {member.tier}, at {member.url}",
        f"offers    {settings.offered_cores or cores} cores, {gigabytes:.1f} GB of memory",
        f"when      {when}",
        f"kernels   {runtime}",
        "Ctrl-C moves away what runs here, and ends.",
    ]


def _settings(member: Membership, arguments: Namespace, home: Home, runtime: str) -> AgentSettings:
    from sessionkeeper.notices.detect import detected

    notices = arguments.notices or "auto"
    if notices == "auto":
        notices = ",".join(detected())
    names = [name for name in notices.split(",") if name and name != "none"]
    when = ",".join(filter(None, (arguments.when, arguments.hours)))
    flags = {
        "gateway_url": member.url,
        "node": member.name,
        "identity": str(home.member),
        "tier": member.tier,
        "data": str(home.data),
        "runtime": runtime,
        "offered_cores": arguments.cores,
        "offered_memory": arguments.memory,
        "notices": ",".join(dict.fromkeys([*names, "signal"])),
        "grace": arguments.grace or GRACE,
        "only_when": when or None,
        "log_level": arguments.log_level,
    }
    return load(AgentSettings, flags, environ={})


def _write_unit(arguments: Namespace, home: Home, terminal: Terminal) -> int:
    root = os.geteuid() == 0
    grace = parse_duration(arguments.grace or GRACE)
    words = [sys.executable, "-m", "sessionkeeper", "node", "join", "--dir", str(home.directory)]
    for flag in ("cores", "memory", "hours", "when", "runtime", "notices", "grace", "log_level"):
        if (value := getattr(arguments, flag)) is not None:
            words += [f"--{flag.replace('_', '-')}", str(value)]
    text = unit.text(words, os.environ, root=root, grace=grace, refused=NOT_LET_IN)
    if arguments.systemd_unit == "-":
        print(text, end="")
        return 0
    where = Path(arguments.systemd_unit or unit.path(root=root, home=Path.home()))
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        where.touch(mode=0o600)  # a proxy's password may be in it
        where.write_text(text)
    except OSError as error:
        raise UsageError(f"{where} cannot be written: {error.strerror}") from None
    user = "" if root else " --user"
    terminal.say(f"{where} is written; now: systemctl{user} enable --now {unit.NAME}")
    if not root:
        terminal.say("to offer it while nobody is logged in: loginctl enable-linger")
    return 0
