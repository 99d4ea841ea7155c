"""A small file server for tests: ranges, entity tags, checksums, and faults on demand."""

import base64
import contextlib
import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import google_crc32c


@dataclasses.dataclass
class Site:
    """What is served, and how badly.

    `statuses` are answered first, one a request; `cuts` end the next answers after so many bytes of the body.
    """

    body: bytes
    etag: str = '"v1"'
    ranges: bool = True
    sends_hash: bool = True
    announced_md5: bytes | None = None
    announced_size: int | None = None
    statuses: list[int] = dataclasses.field(default_factory=list)
    cuts: list[int] = dataclasses.field(default_factory=list)
    requests: list[tuple[str, str | None]] = dataclasses.field(default_factory=list)
    url: str = ""

    def hash_headers(self) -> list[str]:
        md5 = self.announced_md5 or hashlib.md5(self.body).digest()
        crc = google_crc32c.value(self.body).to_bytes(4, "big")
        return [f"crc32c={base64.b64encode(crc).decode()}", f"md5={base64.b64encode(md5).decode()}"]


@contextlib.contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serves on a free port of this machine while the context lasts; sets `site.url`."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, with_body: bool):
            site.requests.append((self.command, self.headers.get("Range")))
            if site.statuses:
                self.send_error(site.statuses.pop(0))
                return
            start, asked = 0, self.headers.get("Range")
            resumes = bool(site.ranges and asked and self.headers.get("If-Range") == site.etag)
            if resumes:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
            body, whole = site.body[start:], len(site.body)
            self.send_response(206 if resumes else 200)
            self.send_header("Content-Length", str(site.announced_size or len(body)))
            self.send_header("ETag", site.etag)
            if resumes:
                self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
            if site.sends_hash:
                for value in site.hash_headers():
                    self.send_header("x-goog-hash", value)
            self.end_headers()
            if with_body:
                self.wfile.write(body[: site.cuts.pop(0)] if site.cuts else body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        site.url = f"http://127.0.0.1:{server.server_port}/archive.tar"
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
