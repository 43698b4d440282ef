"""A server of the test's own on 127.0.0.1, which answers well, badly, half, or slowly, and counts what it is asked."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# A test that asks more often than this has lost its patience limits.
MAX_REQUESTS = 300


@dataclass
class Answer:
    """How one request is answered; the default serves the page as it should be."""

    status: int = 200
    reason: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    stop_after: int | None = None
    """Drop the connection after so many bytes of the body."""
    bytes_per_s: int | None = None
    silent_s: float = 0.0
    ignores_range: bool = False


@dataclass
class Page:
    data: bytes = b""
    content_type: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    """For the first requests, in order; later ones are answered well."""
    always: Answer | None = None


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    status: int


class Server:
    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.requests: list[Request] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            do_HEAD = do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        path = handler.path.partition("?")[0]
        page = self.pages.get(path)
        if len(self.requests) >= MAX_REQUESTS or page is None:
            answer, page = Answer(status=404), Page()
        else:
            answer = page.answers.pop(0) if page.answers else page.always or Answer()
        time.sleep(answer.silent_s)
        status, body, headers = self._body(handler, page, answer)
        self.requests.append(Request(handler.command, path, dict(handler.headers.items()), status))
        with contextlib.suppress(OSError):  # clients may leave early
            handler.send_response(status, answer.reason)
            for name, value in {"Content-Type": page.content_type, "Content-Length": str(len(body)), **headers}.items():
                handler.send_header(name, value)
            handler.send_header("Connection", "close")
            handler.end_headers()
            if handler.command != "HEAD":
                self._send(handler, body[: answer.stop_after], answer.bytes_per_s)

    def _body(self, handler: BaseHTTPRequestHandler, page: Page, answer: Answer) -> tuple[int, bytes, dict[str, str]]:
        headers = {**page.headers, **answer.headers}
        if answer.status != 200:
            return answer.status, b"", headers
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        guard = handler.headers.get("If-Range")
        if not wanted or answer.ignores_range or (guard and guard != page.headers.get("ETag")):
            return 200, page.data, headers
        first, last = int(wanted[1]), min(int(wanted[2] or len(page.data)), len(page.data) - 1)
        if first > last:
            return 416, b"", {**headers, "Content-Range": f"bytes */{len(page.data)}"}
        return (
            206,
            page.data[first : last + 1],
            {
                **headers,
                "Content-Range": f"bytes {first}-{last}/{len(page.data)}",
            },
        )

    def _send(self, handler: BaseHTTPRequestHandler, body: bytes, bytes_per_s: int | None) -> None:
        step = max(1, bytes_per_s // 20) if bytes_per_s else max(1, len(body))
        for start in range(0, len(body), step):
            handler.wfile.write(body[start : start + step])
            handler.wfile.flush()
            if bytes_per_s:
                time.sleep(0.05)


@contextlib.contextmanager
def loopback_only() -> Iterator[None]:
    """Let no name be looked up but that of this machine; a test that tried to leave it fails."""
    real, strangers = socket.getaddrinfo, []

    def guarded(host: str | bytes | None, *args: Any, **kwargs: Any) -> Any:
        if host in {"127.0.0.1", "localhost"}:
            return real(host, *args, **kwargs)
        strangers.append(host)
        raise OSError(f"a test must not contact {host!r}")

    socket.getaddrinfo = guarded  # type: ignore[assignment]
    try:
        yield
    finally:
        socket.getaddrinfo = real
    assert strangers == [], strangers


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
    assert len(server.requests) < MAX_REQUESTS
