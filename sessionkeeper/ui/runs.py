"""What the cells of a kernel's notebook show, by the messages of the kernel. Pure.

The UI server writes a cell's id into the header of its `execute_request`. A kernel repeats that
header in all that it says about the request, so the journal alone tells which cell an output
belongs to: no other record is needed, whoever was there and whatever was restarted meanwhile.

Outputs follow https://jupyter-client.readthedocs.io/en/stable/messaging.html as JupyterLab's output
area does: text of one stream is joined, `clear_output` clears (`wait`: with the next output),
`update_display_data` changes what was displayed under that id, in whatever cell.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from jupyter_server.services.kernels.connection.base import (
    deserialize_msg_from_ws_v1,
    serialize_msg_to_ws_v1,
)

__all__ = ["Run", "Runs", "is_answer", "messages", "tag_request"]

CELL, NOTEBOOK = "sessionkeeper_cell", "sessionkeeper_notebook"
"""Fields of a header: the cell's id, and whether a notebook (not a console) sent the request."""

RUN_BYTES = 16_000_000
"""So much is kept of what one run shows. Beyond it the middle is left out, and that is said."""

KEPT_BYTES = 4_000_000
"""So much of runs that are in the file already is kept, for what may still change them."""

_TAG = f'"{CELL}"'.encode()
_SHOWN = {"stream", "display_data", "execute_result", "error"}
_FORGOTTEN = 1000

Output = dict[str, Any]


def tag_request(payload: bytes) -> bytes:
    """A request in `v1.kernel.websocket.jupyter.org`, with the id of its cell in its header.

    Only an `execute_request` whose metadata has a `cellId` is changed.
    """
    if b"cellId" not in payload[:65536] and b"cellId" not in payload:
        return payload
    channel, parts = deserialize_msg_from_ws_v1(payload)
    header, metadata = json.loads(parts[0]), json.loads(parts[2])
    cell = metadata.get("cellId") if isinstance(metadata, dict) else None
    if header.get("msg_type") != "execute_request" or not isinstance(cell, str) or not cell:
        return payload
    header[CELL] = cell
    # Only a notebook says which of its cells were deleted.
    header[NOTEBOOK] = "deletedCells" in metadata
    return bytes(serialize_msg_to_ws_v1([json.dumps(header).encode(), *parts[1:]], channel))


def is_answer(payload: bytes) -> bool:
    """Whether a request in `v1.kernel.websocket.jupyter.org` is an `input_reply`."""
    return b"input_reply" in payload[:4096] and deserialize_msg_from_ws_v1(payload)[0] == "stdin"


@dataclass
class Run:
    """One run of a cell. `count` is its execution count, None before it began.

    `in_file`: the notebook's file has it; `seen`: a tab has it, so that the tab's word counts from
    now on; `tentative`: it is not known whether a tab had it; `begun`: the kernel took it up.
    """

    parent: dict[str, Any]
    first: int
    last: int
    code: str = ""
    count: int | None = None
    begun: bool = False
    ended: bool = False
    in_file: bool = False
    seen: bool = False
    tentative: bool = False
    outputs: list[Output] = field(default_factory=list)
    displays: dict[int, str] = field(default_factory=dict)  # id(output) → display id
    asks: bytes | None = None  # the `input_request` that waits for an answer
    size: int = 0
    left_out: int = 0
    _clear_next: bool = False

    @property
    def msg_id(self) -> str:
        return str(self.parent["msg_id"])

    @property
    def cell(self) -> str:
        return str(self.parent[CELL])

    @property
    def in_notebook(self) -> bool:
        """A notebook's cell and no console's."""
        return bool(self.parent.get(NOTEBOOK))

    @property
    def happened(self) -> bool:
        """Whether there is anything to show: a run that was aborted in the queue leaves none."""
        return self.begun or bool(self.outputs)

    def shown(self) -> list[Output]:
        """What the cell shows, as notebooks store it (nbformat 4)."""
        return [_stored(output) for output in self.outputs]

    def begin(self, code: str, count: int | None) -> None:
        """The kernel took it up, for the first time or (after a rollback) again."""
        self.code, self.count, self.begun, self.ended = code, count, True, False
        self.clear()

    def filed(self, last: int) -> None:
        """The file has it, as it was when `last` was its newest message."""
        self.in_file = self.last == last

    def clear(self, *, with_next: bool = False) -> None:
        self._clear_next = with_next
        if not with_next:
            self.outputs.clear()
            self.displays.clear()
            self.size = self.left_out = 0

    def show(self, kind: str, content: dict[str, Any]) -> None:
        """Add an output."""
        if self._clear_next:
            self.clear()
        transient = content.pop("transient", None) or {}
        output: Output = {"output_type": kind, **content}
        last = self.outputs[-1] if self.outputs else None
        if kind == "stream":
            text = str(output.pop("text", ""))
            self.size += len(text)
            if last and last["output_type"] == "stream" and last.get("name") == output.get("name"):
                last["text"].append(text)
            else:
                self.outputs.append({**output, "text": [text]})
        else:
            self.size += _size(output)
            self.outputs.append(output)
            if transient.get("display_id"):
                self.displays[id(output)] = str(transient["display_id"])
        if self.size > RUN_BYTES:
            self._leave_out()

    def update(self, display: str, content: dict[str, Any]) -> bool:
        """Change what is displayed under an id; whether there was any."""
        found = False
        for output in self.outputs:
            if self.displays.get(id(output)) == display:
                self.size -= _size(output)
                output["data"] = content.get("data", {})
                output["metadata"] = content.get("metadata", {})
                self.size += _size(output)
                found = True
        return found

    def _leave_out(self) -> None:
        """Keep the first and the last quarter of what there may be."""
        for output in self.outputs:
            if output["output_type"] == "stream":
                output["text"] = ["".join(output["text"])]
        room = RUN_BYTES // 4
        head, rest = _cut(self.outputs, room)
        tail, middle = _cut(rest[::-1], room, from_end=True)
        self.left_out += sum(map(_size, middle))
        for output in middle:
            self.displays.pop(id(output), None)
        note = {
            "output_type": "stream",
            "name": "stderr",
            "text": [f"\n[{self.left_out / 1e6:.0f} MB of output are left out here]\n"],
            "note": True,
        }
        head = [o for o in head if not o.get("note")]
        self.outputs = [*head, note, *[o for o in tail[::-1] if not o.get("note")]]
        self.size = sum(map(_size, self.outputs))


def _cut(outputs: list[Output], room: int, from_end: bool = False) -> tuple[list[Output], Any]:
    """The first of them that fit into `room` characters, and the rest. Text is cut, if need be."""
    kept: list[Output] = []
    for at, output in enumerate(outputs):
        size = _size(output)
        if size <= room or output.get("note"):
            kept.append(output)
            room -= size
            continue
        rest = outputs[at:]
        if output["output_type"] == "stream" and room > 0:
            text = output["text"][0]
            near, far = (text[-room:], text[:-room]) if from_end else (text[:room], text[room:])
            kept.append({**output, "text": [near]})
            rest = [{**output, "text": [far]}, *outputs[at + 1 :]]
        return kept, rest
    return kept, []


def _size(output: Output) -> int:
    if output["output_type"] == "stream":
        return sum(map(len, output["text"]))
    return len(json.dumps(output, default=str))


def _stored(output: Output) -> Output:
    kind = output["output_type"]
    if kind == "stream":
        return {"output_type": kind, "name": output["name"], "text": "".join(output["text"])}
    names = {
        "display_data": ("data", "metadata"),
        "execute_result": ("data", "metadata", "execution_count"),
        "error": ("ename", "evalue", "traceback"),
    }[kind]
    return {"output_type": kind, **{name: output.get(name, {}) for name in names}}


class Runs:
    """The newest run of each cell, as far as there is anything left to do with it.

    `cursor` is that of the last message taken.
    """

    def __init__(self, cursor: int = 0) -> None:
        self.cursor = cursor
        self.tentative_until = 0
        """Runs that began up to this cursor may be known to tabs already."""
        self._by_id: dict[str, Run] = {}
        self._forgotten: dict[str, None] = {}
        self._captured: dict[str, str] = {}  # comm of an Output widget → request that it shows

    def __iter__(self) -> Iterator[Run]:
        return iter(list(self._by_id.values()))

    @property
    def mark(self) -> int:
        """The cursor from which all that is not in a file yet can be found again."""
        waiting = [run.first for run in self._by_id.values() if not run.in_file]
        return min(waiting, default=self.cursor + 1) - 1

    def take(self, cursor: int, payload: bytes) -> bool:
        """One message, in `v1.kernel.websocket.jupyter.org`; whether a run has ended with it."""
        if cursor <= self.cursor:
            return False
        self.cursor = cursor
        try:
            channel, parts = deserialize_msg_from_ws_v1(payload)
            if _TAG in parts[1]:
                header, parent = json.loads(parts[0]), json.loads(parts[1])
                return self._take(channel, header["msg_type"], parent, cursor, parts, payload)
            if channel == "iopub" and b"update_display_data" in parts[0]:
                self._update(json.loads(parts[3]), cursor)
        except (ValueError, KeyError, TypeError, IndexError):
            pass  # what is no kernel message shows nothing
        return False

    def _take(
        self,
        channel: str,
        kind: str,
        parent: dict[str, Any],
        cursor: int,
        parts: list[bytes],
        payload: bytes,
    ) -> bool:
        if parent.get("msg_type") != "execute_request" or parent["msg_id"] in self._forgotten:
            return False
        run = self._run(parent, cursor)
        if channel == "stdin":
            run.asks = payload if kind == "input_request" else None
            run.last = cursor
        if channel != "iopub":
            return False
        run.last = cursor
        content = json.loads(parts[3])
        if kind == "status":
            if content.get("execution_state") == "idle":
                self._end(run)
            return run.ended
        run.asks = None
        if kind == "execute_input":
            run.begin(str(content.get("code", "")), content.get("execution_count"))
            self._only(run)
        elif kind == "clear_output":
            run.clear(with_next=bool(content.get("wait")))
        elif kind == "update_display_data":
            self._update(content, cursor)
            return run.ended
        elif kind.startswith("comm_"):
            self._capture(content)
            return False
        elif run.msg_id in self._captured.values():
            return False  # an Output widget has it, and not the cell
        elif kind in _SHOWN:
            display = (content.get("transient") or {}).get("display_id")
            if display and kind == "display_data":
                self._update(content, cursor, but=run)
            run.show(kind, content)
            self._only(run)
        else:
            return False
        run.in_file = run.seen = False
        return run.ended

    def _capture(self, content: dict[str, Any]) -> None:
        """An Output widget begins or ceases to show what a request puts out."""
        state = content.get("data", {}).get("state", {})
        if "msg_id" in state:
            self._captured[content["comm_id"]] = state["msg_id"]
        if not self._captured.get(content["comm_id"]):
            self._captured.pop(content["comm_id"], None)

    def _end(self, run: Run) -> None:
        run.ended, run.asks = True, None
        if not run.happened:
            self.forget(run)

    def _run(self, parent: dict[str, Any], cursor: int) -> Run:
        run = self._by_id.get(parent["msg_id"])
        if run is None:
            run = Run(parent, cursor, cursor, tentative=cursor <= self.tentative_until)
            self._by_id[run.msg_id] = run
        return run

    def _only(self, run: Run) -> None:
        """It replaces what its cell showed before."""
        for other in self:
            if other is not run and other.cell == run.cell and other.first < run.first:
                self.forget(other)

    def _update(self, content: dict[str, Any], cursor: int, but: Run | None = None) -> None:
        display = (content.get("transient") or {}).get("display_id")
        for run in self:
            if display and run is not but and run.update(str(display), content):
                run.last = cursor
                run.in_file = run.seen = False

    def answered(self) -> None:
        """Somebody answered what the kernel asked for; it asks one thing at a time."""
        for run in self:
            run.asks = None

    def forget(self, run: Run) -> None:
        """Nothing is to be done with it any more, whatever comes."""
        if self._by_id.pop(run.msg_id, None) is not None:
            self._forgotten[run.msg_id] = None
            if len(self._forgotten) > _FORGOTTEN:
                del self._forgotten[next(iter(self._forgotten))]

    def tidy(self) -> None:
        """Forget the oldest runs that are in the file, as far as they take too much memory."""
        done = [run for run in self if run.in_file and run.ended]
        size = sum(run.size + 1000 for run in done)
        for run in done:
            if size <= KEPT_BYTES:
                break
            size -= run.size + 1000
            self.forget(run)


def messages(run: Run) -> Iterator[bytes]:
    """A run so far, as a kernel would say it, for a client that was not there.

    A stream's text is in one piece, displays are as they are now.
    """
    yield _said(run, "status", {"execution_state": "busy"})
    if run.begun:
        yield _said(run, "execute_input", {"code": run.code, "execution_count": run.count})
    for output in run.outputs:
        content = _stored(output)
        display = run.displays.get(id(output))
        if display is not None:
            content["transient"] = {"display_id": display}
        yield _said(run, content.pop("output_type"), content)
    if run.asks is not None:
        yield run.asks
    if run.ended:
        yield _said(run, "status", {"execution_state": "idle"})


def _said(run: Run, kind: str, content: dict[str, Any]) -> bytes:
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": kind,
        "username": "sessionkeeper",
        "session": "",
        "date": datetime.now(UTC).isoformat(),
        "version": "5.3",
    }
    parts = [json.dumps(part).encode() for part in (header, run.parent, {}, content)]
    return bytes(serialize_msg_to_ws_v1(parts, "iopub"))
