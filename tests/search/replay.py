"""A local server that speaks ColabFold's MSA protocol, with whatever trouble a test asks for."""

import contextlib
import dataclasses
import http.server
import io
import json
import tarfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastfold_jax.search.server import Pace, Server

A3M = "uniref.a3m"
ENVIRONMENTAL = "bfd.mgnify30.metaeuk30.smag30.a3m"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Waits that tests can bear."""
    of = Server.of.__func__

    def patient(cls, options, cache):
        made = of(cls, options, cache)
        pace = Pace(first=0.002, longest=0.01, patience=made.pace.patience)
        return dataclasses.replace(made, pace=pace, http=dataclasses.replace(made.http, timeout=2))

    monkeypatch.setattr(Server, "of", classmethod(patient))


def tar(files: dict[str, bytes]) -> bytes:
    """A gzip-packed tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


@dataclasses.dataclass
class Replay:
    """What the server answers and what it was asked.

    Attributes:
        rows: From a kind of ticket, a query's number and its sequence to the rows below the query.
        waits: How often a ticket is pending before it is complete.
        trouble: Called with each request's method and path; what it returns (status, headers, body) is sent instead.
        structures: mmCIF files by entry.
    """

    rows: Callable[[str, int, str], list[str]] = lambda kind, number, sequence: [sequence]
    waits: int = 1
    trouble: Callable[[str, str], tuple[int, dict[str, str], bytes] | None] = lambda method, path: None
    structures: dict[str, Path] = dataclasses.field(default_factory=dict)
    templates: tuple[str, ...] = ()
    requests: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    agents: set[str] = dataclasses.field(default_factory=set)
    asked: list[dict[str, str]] = dataclasses.field(default_factory=list)
    address: str = ""
    _tickets: dict[str, tuple[str, dict[int, str]]] = dataclasses.field(default_factory=dict)
    _polled: dict[str, int] = dataclasses.field(default_factory=dict)

    def post(self, path: str, form: dict[str, str]) -> bytes:
        kind = path.rsplit("/", 1)[1]
        words = form["q"].split()
        queries = {int(name[1:]): sequence for name, sequence in zip(words[::2], words[1::2], strict=True)}
        self.asked.append(form)
        ticket = f"{kind}_{len(self._tickets)}-x"
        self._tickets[ticket] = kind, queries
        return json.dumps({"id": ticket, "status": "PENDING"}).encode()

    def get(self, path: str) -> bytes:
        parts = path.strip("/").split("/")
        if parts[0] == "ticket":
            if parts[1] not in self._tickets:
                return json.dumps({"id": parts[1], "status": "UNKNOWN"}).encode()
            self._polled[parts[1]] = self._polled.get(parts[1], 0) + 1
            status = "COMPLETE" if self._polled[parts[1]] > self.waits else "RUNNING"
            return json.dumps({"id": parts[1], "status": status}).encode()
        if parts[0] == "template":
            names = urllib.parse.unquote(parts[1]).split(",")
            files = {f"{name[:4].lower()}.cif": self.structures[name[:4].lower()].read_bytes() for name in names}
            return tar({**files, "pdb70_a3m.ffdata": b"x"})
        kind, queries = self._tickets[parts[2]]
        if kind == "pair":
            return tar({"pair.a3m": self._file(kind, queries)})
        found = "".join(f"{number}\t{name}\t0.9\t50\n" for number in queries for name in self.templates)
        return tar(
            {A3M: self._file(kind, queries), ENVIRONMENTAL: self._file("env", queries), "pdb70.m8": found.encode()}
        )

    def _file(self, kind: str, queries: dict[int, str]) -> bytes:
        text = b""
        for number, sequence in queries.items():
            hits = "".join(f">{kind}_{i}\n{row}\n" for i, row in enumerate(self.rows(kind, number, sequence)))
            text += f">{number}\n{sequence}\n{hits}".encode() + b"\0"
        return text


@contextlib.contextmanager
def serving(replay: Replay) -> Iterator[Replay]:
    """Serves on a port of its own until the block ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self._answer("GET", lambda: replay.get(self.path))

        def do_POST(self):
            data = self.rfile.read(int(self.headers["Content-Length"]))
            form = {key: values[0] for key, values in urllib.parse.parse_qs(data.decode()).items()}
            self._answer("POST", lambda: replay.post(self.path, form))

        def _answer(self, method, make):
            replay.requests.append((method, self.path))
            replay.agents.add(self.headers["User-Agent"])
            status, headers, body = replay.trouble(method, self.path) or (200, {}, None)
            if status == 0:
                self.close_connection = True
                self.connection.close()
                return
            body = make() if body is None else body
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    replay.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield replay
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
