"""How a kernel begins: which kernelspec, in which environment, with which notebook run first."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import urllib.request
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from gateway.errors import (
    BadRequest,
    KernelspecNotFound,
    NoCompute,
    NoSuchKernel,
    OptionRefused,
    SeedFailed,
    TooManyKernels,
)
from gateway.feed import Delivery, Feed
from gateway.frames import SHELL, decode_payload, encode_payload
from gateway.kernels import Compute, Kernels
from gateway.messages import read_header
from gateway.options import Options

log = logging.getLogger(__name__)

Specs = dict[str, dict[str, Any]]


def default_spec(specs: Specs, options: Options) -> str:
    """The operator's choice; else python3 where there is one, else the first."""
    chosen = options.force_kernel_name or options.default_kernel_name
    return chosen or ("python3" if "python3" in specs else next(iter(sorted(specs)), "python3"))


def spec_of(wish: dict[str, Any], specs: Specs, options: Options) -> str:
    """Which kernelspec a client gets. Raises `KernelspecNotFound`, `NoSuchKernel`."""
    asked = str(wish.get("name") or "")
    if asked == "python" and asked not in specs:
        asked = "python3"  # as jupyter_client does
    if not asked or options.force_kernel_name:
        name = default_spec(specs, options)
        if name not in specs and name in (options.force_kernel_name, options.default_kernel_name):
            raise NoSuchKernel(name, list(specs))
    else:
        name = asked
    if name not in specs:
        raise KernelspecNotFound(name, list(specs))
    return name


def environment_of(wish: dict[str, Any], options: Options) -> dict[str, str]:
    """What is set in a kernel's environment beside its kernelspec's. Raises `BadRequest`.

    Of the client's wishes `KERNEL_*` and what the operator allows, as in the stock gateway.
    """
    asked = wish.get("env") or {}
    if not isinstance(asked, dict):
        raise BadRequest("'env' is not a JSON object.")
    allowed = options.env_whitelist
    taken = {
        str(name): str(value)
        for name, value in asked.items()
        if str(name).startswith("KERNEL_") or name in allowed or "*" in allowed
    }
    if dropped := sorted(asked.keys() - taken.keys()):
        log.info("not set for a kernel, as KG_ENV_WHITELIST does not allow it: %s", dropped)
    own = {name: os.environ[name] for name in options.env_process_whitelist if name in os.environ}
    return {**own, **taken, "KERNEL_GATEWAY": "1"}


async def start_kernel(
    kernels: Kernels, compute: Compute, options: Options, wish: dict[str, Any], notebook: str = ""
) -> str:
    """Start a kernel of `{name, env, path, kernel_id}`, and run the operator's notebook in it; its
    id. Nothing is left of a kernel that did not start.
    """
    name = spec_of(wish, compute.kernelspecs(), options)
    uri = options.seed_uri
    seed = await asyncio.to_thread(read_seed, uri) if uri is not None else None
    if options.max_kernels is not None and len(kernels.records) >= options.max_kernels:
        raise TooManyKernels(options.max_kernels)
    record = kernels.create(
        name,
        environment_of(wish, options),
        str(wish.get("path") or ""),
        wish.get("kernel_id"),
        notebook,
    )
    try:
        async with kernels.lock(record.id):
            await compute.start(record, next_seq=1, applied=0)
        if seed is not None and name == (options.force_kernel_name or seed.kernelspec):
            await run_seed(seed, kernels, record.id)
    except SeedFailed:
        await compute.stop(record.id, final=True)
        kernels.remove(record.id)
        raise
    except BaseException:
        kernels.remove(record.id)
        raise
    return record.id


# -- the notebook that every kernel begins with ----------------------------------------------------


@dataclass(frozen=True)
class Seed:
    """Code cells in order, and the kernelspec they are for."""

    kernelspec: str
    cells: tuple[str, ...]


def read_seed(uri: str) -> Seed:
    """A notebook's code, from a file or by HTTP. Raises `OptionRefused`."""
    parts = urlsplit(uri)
    try:
        if parts.scheme in ("http", "https"):
            with urllib.request.urlopen(uri, timeout=60) as answer:  # noqa: S310
                text = answer.read().decode()
        else:
            file = Path(parts.path if parts.scheme == "file" else uri)
            text = (file if file.exists() else Path(unquote(str(file)))).read_text()
        notebook = json.loads(text)
        spec = str(notebook["metadata"]["kernelspec"]["name"])
        cells = [c["source"] for c in notebook["cells"] if c["cell_type"] == "code"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionRefused(f"The notebook of KG_SEED_URI cannot be read: {error!r}.") from error
    return Seed(spec, tuple(c if isinstance(c, str) else "".join(c) for c in cells))


async def run_seed(seed: Seed, kernels: Kernels, kernel_id: str) -> None:
    """Run the cells, one after the other. Raises `SeedFailed` at the first error."""
    channel, session = kernels.channel(kernel_id), uuid.uuid4().hex
    replies: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def look(delivery: Delivery) -> None:
        kind, parts = decode_payload(delivery.payload)
        if kind == SHELL and read_header(parts[1]).session == session:
            replies.put_nowait(json.loads(bytes(parts[3])))

    feed = Feed(
        channel.outlet,
        look,
        session,
        channel.outlet.last_cursor,
        lambda: replies.put_nowait({"status": "error", "evalue": "the kernel was shut down"}),
    )
    channel.outlet.attach(feed)
    try:
        for code in seed.cells:
            channel.submit(_execute(code, session))
            reply = await replies.get()
            if reply.get("status") != "ok":
                raise SeedFailed(
                    f"The seed notebook failed: {reply.get('ename')}: {reply.get('evalue')}"
                )
    finally:
        channel.outlet.detach(feed)


def _execute(code: str, session: str) -> bytes:
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": "execute_request",
        "session": session,
        "username": "gateway",
        "date": datetime.now(UTC).isoformat(),
        "version": "5.3",
    }
    content = {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": True,
    }
    parts = [json.dumps(one).encode() for one in (header, {}, {}, content)]
    return encode_payload(SHELL, parts)


async def prespawn(kernels: Kernels, compute: Compute, options: Options) -> None:
    """Start kernels until there are as many as the operator wants. Those of before count."""
    missing = options.prespawn_count - len(kernels.records)
    await asyncio.gather(*(_ahead(kernels, compute, options) for _ in range(missing)))


async def _ahead(kernels: Kernels, compute: Compute, options: Options) -> None:
    while True:
        try:
            await start_kernel(kernels, compute, options, {})
            return
        except (KernelspecNotFound, NoCompute) as error:
            if isinstance(error, NoSuchKernel) and compute.kernelspecs():
                log.error("kernels cannot be started ahead: %s", error)
                return
            await asyncio.sleep(1.0)  # no node yet; nobody tells when there is one
        except Exception as error:
            log.error("a kernel could not be started ahead: %s", error)
            return
