"""A kernel that counts: `python counting_kernel.py CONNECTION_FILE`. It needs pyzmq alone, so that
many can be had, and says as fast as it can what `ipykernel` says slowly.

It executes one command, in JSON, as if it were code:

    {"say": 100, "size": 50, "every": 0.002}   100 messages of stdout: "0\\n", "1\\n"... of `size`
                                               bytes, with so many seconds between two of them
    {"lose_idle": true}                        goes on as a kernel that dropped its last messages
    {"exit": 3}                                ends with that code

Each execute_reply has, as its `execution_count`, how many requests were executed so far, and in
`user_expressions` the `name` of the command: who is asked twice is found out.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sys
import time
import uuid
from typing import Any

import zmq

DELIMITER = b"<IDS|MSG>"


class Kernel:
    def __init__(self, file: str) -> None:
        with open(file) as text:
            info = json.load(text)
        self.key = info["key"].encode()
        self.session = uuid.uuid4().hex
        self.executed = 0
        context = zmq.Context()

        def bind(kind: int, port: str) -> Any:
            socket = context.socket(kind)
            socket.bind(f"ipc://{info['ip']}-{info[port]}")
            return socket

        self.iopub = bind(zmq.PUB, "iopub_port")
        self.shell = bind(zmq.ROUTER, "shell_port")
        self.control = bind(zmq.ROUTER, "control_port")
        self.stdin = bind(zmq.ROUTER, "stdin_port")

    def run(self) -> None:
        poller = zmq.Poller()
        for socket in (self.shell, self.control):
            poller.register(socket, zmq.POLLIN)
        while True:
            for socket, _ in poller.poll():
                self.handle(socket, socket.recv_multipart())

    def handle(self, socket: Any, frames: list[bytes]) -> None:
        at = frames.index(DELIMITER)
        identity, request = frames[:at], frames[at + 2 :]
        kind = json.loads(request[0])["msg_type"]
        self.say("status", {"execution_state": "busy"}, request)
        content: dict[str, Any] = {"status": "ok"}
        command: dict[str, Any] = {}
        if kind == "execute_request":
            command = json.loads(json.loads(request[3])["code"])
            self.execute(command, request)
            content |= {
                "execution_count": self.executed,
                "user_expressions": {"name": command.get("name", "")},
                "payload": [],
            }
        reply = self.message(kind.replace("_request", "_reply"), content, request)
        socket.send_multipart([*identity, *reply])
        if not command.get("lose_idle"):
            self.say("status", {"execution_state": "idle"}, request)
        if "exit" in command:
            os._exit(command["exit"])

    def execute(self, command: dict[str, Any], request: list[bytes]) -> None:
        self.executed += 1
        every, size = command.get("every", 0), command.get("size", 0)
        for number in range(command.get("say", 0)):
            text = str(number).rjust(size) + "\n"
            self.say("stream", {"name": "stdout", "text": text}, request)
            if every:
                time.sleep(every)

    def message(self, kind: str, content: dict[str, Any], request: list[bytes]) -> list[bytes]:
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": kind,
            "session": self.session,
            "username": "kernel",
            "version": "5.3",
            "date": "2026-01-01T00:00:00Z",
        }
        parts = [json.dumps(header).encode(), request[0], b"{}", json.dumps(content).encode()]
        mac = hmac.new(self.key, digestmod=hashlib.sha256)
        for part in parts:
            mac.update(part)
        return [DELIMITER, mac.hexdigest().encode(), *parts]

    def say(self, kind: str, content: dict[str, Any], request: list[bytes]) -> None:
        self.iopub.send_multipart([kind.encode(), *self.message(kind, content, request)])


if __name__ == "__main__":
    Kernel(sys.argv[1]).run()
