"""moto's S3 server, for a process of its own: `python moto_process.py`, prints its port.

moto looks whether an object exists and writes it in two steps, which real services do in one. Here
only one write is under way at a time.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server


class OneWriteAtATime:
    def __init__(self, app: Any) -> None:
        self.app = app
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] not in ("PUT", "DELETE"):
            return self.app(environ, start_response)
        with self.lock:
            return self.app(environ, start_response)


class Handler(MotoRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as real services do


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = OneWriteAtATime(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Handler)
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
