"""A client that comes back and does not know what it has shown: each output is to be there once.

It is told to clear the cells of which it may have had something, and gets their outputs again.
"""

from __future__ import annotations

from gateway.feed import WINDOW
from gateway.frames import EVENT, IOPUB, decode_payload
from gateway.journal import OutputLog, OutputRecord
from gateway.messages import execution_state, is_cell_output, read_header, synthesize


def repaint(outputs: OutputLog, after: int, session: str) -> list[bytes]:
    """What such a client is told before the messages after cursor `after`, the last one that it is
    known to have: payloads, said under `session` where they are ours.

    A cell whose beginning the journal does not have, or that comes after 4 MB of output, is not
    cleared: of that it may get something twice.
    """
    parents: dict[str, bytes] = {}
    begun: set[str] = set()
    for record in outputs.read(after + 1):
        if is_cell_output(record.payload) and not record.hidden:
            parents.setdefault(_parent(record), bytes(decode_payload(record.payload)[1][1]))
        elif _is_beginning(record):
            begun.add(_parent(record))
    parents.pop("", None)
    before: dict[str, list[bytes]] = {msg_id: [] for msg_id in parents}
    seen = 0
    for record in outputs.read_back(after):
        seen += len(record.payload)
        if seen > WINDOW or begun >= parents.keys():
            break
        msg_id = _parent(record)
        if msg_id not in parents or msg_id in begun or record.hidden:
            continue
        if is_cell_output(record.payload):
            before[msg_id].append(record.payload)
        elif _is_beginning(record):
            begun.add(msg_id)
    told = []
    for msg_id, parent in parents.items():
        if msg_id in begun:
            told.append(synthesize(IOPUB, "clear_output", parent, {"wait": False}, session))
            told += reversed(before[msg_id])
    return told


def _is_beginning(record: OutputRecord) -> bool:
    channel, parts = decode_payload(record.payload)
    return channel == IOPUB and execution_state(parts) == "busy"


def _parent(record: OutputRecord) -> str:
    channel, parts = decode_payload(record.payload)
    return "" if channel == EVENT or len(parts) < 2 else read_header(parts[1]).msg_id
