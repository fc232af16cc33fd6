"""A server of files on this machine, for tests of downloads."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Server(ThreadingHTTPServer):
    """Serves files, in part where asked to unless not ``in_part``; breaks off after ``cut`` bytes once."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.ranges, self.in_part = {}, None, [], True
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content = self.server.files[self.path[1:]]
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        in_part = asked and self.server.in_part
        first = int(asked.removeprefix("bytes=").rstrip("-")) if in_part else 0
        self.send_response(206 if in_part else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        cut, self.server.cut = self.server.cut, None
        self.wfile.write(content[first : cut or len(content)])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()
