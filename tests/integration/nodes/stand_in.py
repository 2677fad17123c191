"""Stands for the gateway, the UI server or an agent: takes their flags, says that it is ready, and
does what a test tells it by environment variables.

    python stand_in.py ROLE [flags]

A gateway or UI serves its flags and environment as JSON on its port. An agent says hello to its
gateway, then starts a process that daemonises (fork, setsid, fork), and waits.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
for key in list(os.environ): del os.environ[key]
os.close(1)
time.sleep(float(sys.argv[1]))
"""


def flags(words: list[str]) -> dict[str, str]:
    return {
        name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)
    }


def ready(given: dict[str, str]) -> None:
    os.write(int(given["ready-fd"]), b"ready\n")


def credentials() -> list[str]:
    return sorted(name for name in os.environ if name.startswith("AWS_"))


def serve(role: str, given: dict[str, str]) -> None:
    hellos: list[dict[str, str]] = []
    changed = threading.Condition()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/api/sessionkeeper/nodes":
                there = [{"name": hello["node"], "state": "ready"} for hello in hellos]
                self.answer({"nodes": there})
                return
            # /N answers when there were N hellos.
            with changed:
                changed.wait_for(lambda: len(hellos) >= int(self.path[1:] or 0), 30)
            told = {"role": role, "flags": given, "argv": sys.argv, "hellos": hellos}
            self.answer({**told, "credentials": credentials()})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with changed:
                hellos.append({**body, "from": self.client_address[0]})
                changed.notify_all()
            self.answer({})

        def answer(self, content: object) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    def end(*_: object) -> None:
        with (Path(given["state"]).parent / "ended").open("a") as file:
            file.write(role + "\n")
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    servers = [ThreadingHTTPServer((given["host"], int(given["port"])), Handler)]
    if "agent-host" in given:
        servers.append(ThreadingHTTPServer((given["agent-host"], int(given["port"])), Handler))
        threading.Thread(target=servers[1].serve_forever, daemon=True).start()
    ready(given)
    servers[0].serve_forever()


def offer(given: dict[str, str]) -> None:
    lifetime = os.environ["STAND_IN_LIFETIME"]
    Path(given["data"]).mkdir(parents=True, exist_ok=True)
    daemon = [sys.executable, "-c", DAEMON, lifetime]
    # Its output ends when only the last of its processes is left.
    subprocess.run(daemon, stdout=subprocess.PIPE, check=True)
    hello = {
        "node": given["node"],
        "token": Path(given["token-file"]).read_text().strip(),
        "sees": sorted(os.listdir(Path(given["data"]).parent.parent.parent)),
        "credentials": credentials(),
        "netns": os.readlink("/proc/self/ns/net"),
        "pid": os.getpid(),
    }
    request = urllib.request.Request(given["gateway-url"], json.dumps(hello).encode())
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()
    ready(given)
    time.sleep(float(lifetime))


if __name__ == "__main__":
    role, given = sys.argv[1], flags(sys.argv[2:])
    if os.environ.get("STAND_IN_FAILS") == role:
        print(f"the {role} cannot start: no such luck", file=sys.stderr)
        sys.exit(int(os.environ.get("STAND_IN_CODE", "1")))
    if role == "agent":
        offer(given)
    else:
        serve(role, given)
