"""What answers at the address of a bucket and is no S3 service: a proxy, a page to log in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from s3.fixtures import s3_credentials

from checkpoint.blobs import Backoff, check_answers, open_store, probe
from checkpoint.errors import StoreError, StoreUnavailable, UnsupportedStore
from sessionkeeper.cli import main

PAGE = b"<html><body>Please log in to the network</body></html>"
ONCE = Backoff(limit=0)


@contextmanager
def _service(status: int, body: bytes, *, slow: bool = False) -> Iterator[str]:
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nobody wants to know."""

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:1/")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            for at in range(len(body)) if slow else ():
                self.wfile.write(body[at : at + 1])
                self.wfile.flush()
                if over.wait(0.2):
                    return
            self.wfile.write(b"" if slow else body)

        do_HEAD = do_PUT = do_DELETE = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with s3_credentials():
            yield f"s3://bucket/?endpoint=http://127.0.0.1:{server.server_address[1]}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, PAGE, "answers, but not as S3 does"),
        (200, b"", "answers, but not as S3 does"),
        (302, b"", "sends every request elsewhere"),
    ],
)
def test_service_that_is_not_s3_is_refused_with_words(
    status: int, body: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _service(status, body) as url:
        with pytest.raises(UnsupportedStore, match=said):
            check_answers(open_store(url, ONCE))
        with pytest.raises(StoreError):
            probe(open_store(url, ONCE))
        for action in ("list", "fsck", "gc"):
            assert main(["store", action, "--store", url, "--state", str(tmp_path)]) == 5
            assert said in capsys.readouterr().err


def test_service_that_trickles_is_given_up_on() -> None:
    with (
        _service(200, b" " * 1000, slow=True) as url,
        pytest.raises(StoreUnavailable, match="did not answer within 1 s"),
    ):
        check_answers(open_store(url, ONCE), 1.0)
