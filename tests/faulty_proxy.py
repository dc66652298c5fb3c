"""A proxy that fails on purpose between a client of S3 and its server, and counts how.

    with FaultyProxy("http://127.0.0.1:9000", seed=1) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.url
        ...
        assert all(proxy.counts[kind] for kind in FAULTS)

It speaks HTTP/1.1 to both sides and passes the Host header on as it came: signatures of version 4 cover it.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

FAULTS = {
    "delayed": "the server's answer comes late",
    "closed": "the connection is closed before the request reaches the server",
    "cut_upload": "the connection breaks in the middle of the request's body",
    "lost": "the request reaches the server, and its answer is lost",
    "cut": "the connection breaks in the middle of the answer's body",
    "slow_down": "503 SlowDown, not asked of the server",
    "too_many": "429 without a body, not asked of the server",
    "internal": "500 InternalError, not asked of the server",
}
ANSWERS = {
    "slow_down": (503, "SlowDown"),
    "too_many": (429, ""),
    "internal": (500, "InternalError"),
    "no_upload": (404, "NoSuchUpload"),
}
"""Of the last: what S3 may say of an upload that was ended before; only as a script asks for it."""
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}


class FaultyProxy:
    """Listens on a port of its own from entry to exit. share: of the requests that fail, in one of the given ways, drawn by
    the seed. down: while it is True, no request gets through. script: (text, kind) pairs; the first request with the text in
    its method and path meets that kind, once; kind "down": from that request on, all are closed."""

    def __init__(self, server: str, seed: int, share: float = 0.2, kinds: Mapping[str, str] = FAULTS) -> None:
        self.server, self.share, self.kinds, self.down = urlsplit(server), share, list(kinds), False
        self.script: list[tuple[str, str]] = []
        self.counts: Counter[str] = Counter()
        self._drawn: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()
        proxy = self

        class Handler(_Handler):
            of = proxy

        self._listener = _Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"

    def draw(self, method: str, path: str, length: int) -> str:
        """What becomes of a request with a body of so many bytes."""
        with self._lock:
            scripted = next((entry for entry in self.script if entry[0] in f"{method} {path}"), None)
            if scripted is not None:
                self.script.remove(scripted)
                self.down = self.down or scripted[1] == "down"
            if self.down:
                return "closed"
            if scripted is not None:
                return scripted[1]
            if self._random.random() >= self.share:
                return "passed"
            possible = [k for k in self.kinds if (k != "cut_upload" or length) and (k != "cut" or method == "GET")]
            least = min(self._drawn[k] for k in possible)  # so that a few faults are of all kinds
            kind = self._random.choice([k for k in possible if self._drawn[k] == least])
            self._drawn[kind] += 1
            return kind

    def count(self, kind: str) -> None:
        with self._lock:
            self.counts[kind] += 1

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.shutdown()
        self._listener.server_close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no news here."""


class _Handler(BaseHTTPRequestHandler):
    of: FaultyProxy
    protocol_version = "HTTP/1.1"

    def do(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        kind = self.of.draw(self.command, self.path, length)
        if kind == "cut_upload" and length:
            self.rfile.read(length // 2)
            return self._break(kind)
        body = self.rfile.read(length)
        if kind in ("closed", "cut_upload"):
            return self._break("closed")
        if kind in ANSWERS:
            return self._answer(kind)
        if kind == "delayed":
            time.sleep(0.3)
        status, reason, headers, content = self._ask(body)
        if kind == "lost" or (kind == "cut" and (len(content) < 2 or self.command == "HEAD")):
            return self._break("lost")
        self.of.count(kind)
        self.send_response_only(status, reason)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        declared = next((v for n, v in headers if n.lower() == "content-length"), str(len(content)))
        if status != 204:
            self.send_header("Content-Length", declared if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        if kind == "cut":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            return self._reset()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do  # noqa: N815

    def _ask(self, body: bytes) -> tuple[int, str, list[tuple[str, str]], bytes]:
        server = http.client.HTTPConnection(self.of.server.hostname or "", self.of.server.port, timeout=60)
        try:
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    server.putheader(name, value)
            server.endheaders(body)
            answer = server.getresponse()
            return answer.status, answer.reason, answer.getheaders(), answer.read()
        finally:
            server.close()

    def _answer(self, kind: str) -> None:
        self.of.count(kind)
        status, code = ANSWERS[kind]
        content = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode() if code else b""
        content = b"" if self.command == "HEAD" else content
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _break(self, kind: str) -> None:
        self.of.count(kind)
        self._reset()

    def _reset(self) -> None:
        """Close at once, with a reset and not an end of file."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the counts say it."""
