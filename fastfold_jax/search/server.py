"""Alignments and templates from a server that speaks ColabFold's MSA protocol (Mirdita et al. 2022).

A ticket is asked for with all sequences, polled until it is complete, and its result downloaded as a tar archive.
Ticket and results are kept in the cache, so a run that was interrupted goes on with the same ticket.
"""

import dataclasses
import functools
import json
import logging
import random
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from importlib import metadata
from typing import Any, Literal, TypeVar

from fastfold_jax.data.a3m import parse_a3m
from fastfold_jax.data.alignment import Alignment
from fastfold_jax.data.textfile import shown
from fastfold_jax.errors import UserError
from fastfold_jax.search import server_archive
from fastfold_jax.search.cache import Cache
from fastfold_jax.search.config import SearchOptions
from fastfold_jax.search.http import Http, Refused, TemporaryFailure
from fastfold_jax.search.report import Report

logger = logging.getLogger(__name__)

_FIRST = 101  # the number that the protocol gives the first query
_MOST_JSON = 1 << 20
_MOST_ARCHIVE = 1 << 30
_FAILURES_IN_A_ROW = 6
_TICKET = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ENTRY = re.compile(r"[0-9][A-Za-z0-9]{3}_[A-Za-z0-9.]{1,8}")

Kind = Literal["msa", "pair"]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """How often a server is asked about a ticket, and for how long.

    Attributes:
      first: Seconds before the second question; they double up to `longest`.
      longest: Most seconds between two questions, unless the server asks for more.
      patience: Seconds after which a ticket is given up.
    """

    first: float = 5.0
    longest: float = 60.0
    patience: float = 7200.0


class _NotYet(TemporaryFailure):
    """The server works on the ticket, or asks to come back later; no failure."""


class _Lost(Exception):
    """The server does not know the ticket (any more)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Server:
    """A server and how it is asked.

    Attributes:
      address: The server's URL, without a slash at the end.
      http: How requests are made.
      pace: How often the server is asked.
      environmental: Whether it should search environmental sequences.
      pairing: Which species it should pair.
      cache: Where tickets and results are kept.
      stop: Ends all waiting once set.
    """

    address: str
    http: Http
    pace: Pace
    environmental: bool
    pairing: Literal["greedy", "complete"]
    cache: Cache
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)

    @classmethod
    def of(cls, options: SearchOptions, cache: Cache) -> "Server":
        """The server that the options name."""
        contact = f" ({options.msa_server_contact})" if options.msa_server_contact else ""
        return cls(
            address=options.msa_server.rstrip("/"),
            http=Http(user_agent=f"fastfold-jax/{metadata.version('fastfold-jax')}{contact}"),
            pace=Pace(patience=60 * options.msa_server_patience),
            environmental=options.msa_server_environmental,
            pairing=options.msa_server_pairing,
            cache=cache,
        )

    def alignments(self, sequences: Sequence[str], *, pairing: bool, report: Report) -> dict[str, list[Alignment]]:
        """For each sequence its alignment and, with `pairing`, rows that correspond to those of all others.

        Raises:
          UserError: if the server fails, refuses, or answers something else than alignments of these sequences.
        """
        pool = ThreadPoolExecutor(2)
        try:
            runs = [pool.submit(self._unpaired, sequences, report)]
            runs += [pool.submit(self._paired, sequences, report)] if pairing else []
            done, _ = wait(runs, return_when=FIRST_EXCEPTION)
            for run in done:
                run.result()  # raises what ended the other's wait
            columns = [run.result() for run in runs]
        except BaseException:
            self.stop.set()
            raise
        finally:
            pool.shutdown(wait=False)  # an interrupt need not wait for an answer
        return {sequence: list(rows) for sequence, *rows in zip(sequences, *columns, strict=True)}

    def template_entries(self, sequences: Sequence[str], report: Report) -> list[list[str]]:
        """For each sequence the chains of the PDB that resemble it, as `1abc_A`, best first.

        Raises:
          UserError: see `alignments`.
        """
        texts = self._results("msa", sequences, report)
        return [[name for name in text.decode().split() if _ENTRY.fullmatch(name)] for _, text in texts]

    def structures(self, entries: Sequence[str], report: Report) -> dict[str, bytes]:
        """mmCIF files by name, of entries such as `1abc_A`.

        Raises:
          UserError: see `alignments`.
        """
        key = Cache.key(form=1, server=self.address, structures=list(entries))
        archive = self.cache.get(key)
        if archive is None:
            url = f"{self.address}/template/{urllib.parse.quote(','.join(entries), safe=',')}"
            ask = functools.partial(self.http.request, url, most=_MOST_ARCHIVE)
            archive = self._patiently(ask, "templates from the server", report)
        files = server_archive.files(archive, lambda name: name.endswith(".cif"), place=self.address)
        self.cache.put(key, archive)
        return files

    def _unpaired(self, sequences: Sequence[str], report: Report) -> list[Alignment]:
        texts = [text for text, _ in self._results("msa", sequences, report)]
        return [self._parsed(text, sequence, "other") for text, sequence in zip(texts, sequences, strict=True)]

    def _paired(self, sequences: Sequence[str], report: Report) -> list[Alignment]:
        texts = [text for text, _ in self._results("pair", sequences, report)]
        paired = [self._parsed(text, sequence, "paired") for text, sequence in zip(texts, sequences, strict=True)]
        if len({len(rows.residues) for rows in paired}) > 1:
            counts = ", ".join(str(len(rows.residues)) for rows in paired)
            raise UserError(f"{self.address}: paired alignments must have equally many rows, but have {counts}")
        return paired

    def _parsed(self, text: bytes, sequence: str, source: Literal["other", "paired"]) -> Alignment:
        alignment = parse_a3m(text, file=f"the answer of {self.address}", source=source)
        if alignment.query != sequence:
            raise UserError(f"{self.address}: answered with an alignment of another sequence than was asked for")
        return alignment

    def _mode(self, kind: Kind) -> str:
        """What the protocol calls what is wanted."""
        if kind == "pair":
            return f"pair{self.pairing}"
        return "env" if self.environmental else "all"

    def _keys(self, kind: Kind, sequences: Sequence[str]) -> list[str]:
        """Cache keys of the sequences' results; paired rows depend on all sequences, others do not."""
        shared = list(sequences) if kind == "pair" else None
        asked = {"server": self.address, "mode": self._mode(kind), "with": shared}
        return [Cache.key(form=1, sequence=sequence, **asked) for sequence in sequences]

    def _results(self, kind: Kind, sequences: Sequence[str], report: Report) -> list[tuple[bytes, bytes]]:
        """The A3M and the template entries of each sequence, kept ones where there are."""
        keys = self._keys(kind, sequences)
        kept = {key: text for key in keys if (text := self.cache.get(key)) is not None}
        missing = [
            (key, sequence)
            for key, sequence in zip(keys, sequences, strict=True)
            if key not in kept or (kind == "pair" and len(kept) < len(keys))
        ]
        if missing:
            query = "".join(f">{number}\n{sequence}\n" for number, (_, sequence) in enumerate(missing, start=_FIRST))
            ticket = Cache.key(form=1, ticket=query, server=self.address, mode=self._mode(kind))
            archive = self._ticket(kind, query, ticket, report)
            try:
                for (key, _), text in zip(missing, self._checked(archive, kind, missing), strict=True):
                    kept[key] = text
                    self.cache.put(key, text)
            finally:
                self.cache.drop(ticket)
        pieces = [kept[key].partition(b"\0") for key in keys]
        return [(alignment, templates) for alignment, _, templates in pieces]

    def _checked(self, archive: bytes, kind: Kind, missing: Sequence[tuple[str, str]]) -> list[bytes]:
        """What an archive holds for each of the sequences that were asked for, once it is found to be that."""
        numbers = range(_FIRST, _FIRST + len(missing))
        texts = server_archive.results(archive, kind, numbers, place=self.address)
        for (_, sequence), text in zip(missing, texts, strict=True):
            self._parsed(text.partition(b"\0")[0], sequence, "other")
        return texts

    def _ticket(self, kind: Kind, query: str, key: str, report: Report) -> bytes:
        """The archive that answers a ticket, one of an earlier run (kept under `key`) where there is."""
        stage = "pairing on the server" if kind == "pair" else "searching on the server"
        form = urllib.parse.urlencode({"q": query, "mode": self._mode(kind)}).encode()
        ticket = (self.cache.get(key) or b"").decode(errors="replace")
        try:
            if _TICKET.fullmatch(ticket):
                try:
                    return self._answer(ticket, stage, report, resumed=True)
                except _Lost:
                    logger.info("%s: does not know ticket %s any more; asking anew", self.address, ticket)
            ticket = self._patiently(functools.partial(self._submit, kind, form), stage, report)
            self.cache.put(key, ticket.encode())
            return self._answer(ticket, stage, report, resumed=False)
        except Refused:  # when patience ends, though, the next run goes on with this ticket
            self.cache.drop(key)
            raise

    def _answer(self, ticket: str, stage: str, report: Report, *, resumed: bool) -> bytes:
        """Waits until a ticket is complete, and downloads its archive."""
        url = f"{self.address}/result/download/{ticket}"
        self._patiently(functools.partial(self._poll, ticket, resumed=resumed), stage, report)
        archive = self._patiently(functools.partial(self.http.request, url, most=_MOST_ARCHIVE), stage, report)
        report(stage, 1, 1)
        return archive

    def _submit(self, kind: Kind, form: bytes) -> str:
        """Asks for a ticket."""
        answer = self._json(f"{self.address}/ticket/{kind}", form)
        status, ticket = answer.get("status"), answer.get("id")
        if status in ("UNKNOWN", "RATELIMIT"):
            raise _NotYet("the server takes no more requests for now")
        self._check(status)
        if not isinstance(ticket, str) or not _TICKET.fullmatch(ticket):
            raise UserError(f"{self.address}: answered with no ticket, but {shown(json.dumps(answer), 80)}")
        return ticket

    def _poll(self, ticket: str, *, resumed: bool) -> None:
        """Returns once a ticket is complete; a new one may still be unknown for a while, an old one is then lost."""
        status = self._json(f"{self.address}/ticket/{ticket}").get("status")
        if status == "UNKNOWN" and resumed:
            raise _Lost
        if status in ("UNKNOWN", "PENDING", "RUNNING", "RATELIMIT"):
            raise _NotYet(f"the server's search is {status.lower()}")
        self._check(status)
        if status != "COMPLETE":
            raise Refused(f"{self.address}: answered with the status {shown(str(status))}, which is not known here")

    def _check(self, status: Any) -> None:
        if status == "ERROR":
            raise Refused(f"{self.address}: the server failed at this search; check the sequences, or try later")
        if status == "MAINTENANCE":
            raise UserError(f"{self.address}: the server is under maintenance; try later, or search with --msa local")

    def _json(self, url: str, form: bytes | None = None) -> dict[str, Any]:
        data = self.http.request(url, form=form, most=_MOST_JSON)
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            raise TemporaryFailure(f"{url}: the answer is no JSON: {shown(data)}") from None
        if not isinstance(answer, dict):
            raise TemporaryFailure(f"{url}: the answer is no JSON object: {shown(data)}")
        return answer

    def _patiently(self, ask: Callable[[], T], stage: str, report: Report) -> T:
        """Asks until there is an answer.

        Waits grow, with some chance in them so that many clients do not come back at once.

        Raises:
          UserError: if patience ends, or too many failures come in a row.
        """
        start, wait, failures = time.monotonic(), self.pace.first, 0
        while True:
            try:
                return ask()
            except TemporaryFailure as error:
                failures = 0 if isinstance(error, _NotYet) else failures + 1
                pause = error.wait if error.wait is not None else wait * random.uniform(0.8, 1.2)
                passed = time.monotonic() - start
                if failures >= _FAILURES_IN_A_ROW:
                    raise UserError(f"{error}, {failures} times in a row") from None
                if passed + pause > self.pace.patience:
                    raise UserError(
                        f"{self.address}: {error}, for {passed / 60:.1f} minutes; run the command again to go on "
                        "waiting, or give --msa-server-patience more"
                    ) from None
                logger.log(logging.WARNING if failures else logging.DEBUG, "%s; asking again in %.1f s", error, pause)
                report(stage, 0, 0)
                if self.stop.wait(pause):
                    raise UserError(f"{self.address}: stopped while {stage}") from None
                wait = min(2 * wait, self.pace.longest)
