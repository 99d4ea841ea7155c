"""The MSA server's client against a local server: the protocol, trouble of all kinds, resuming, and hostile answers."""

import dataclasses
import itertools
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import A3M, Replay, quick, serving, tar
from targets import job_of

from fastfold_jax.config.presets import preset
from fastfold_jax.constants import GAP
from fastfold_jax.data.assemble import assemble
from fastfold_jax.data.fasta import Record
from fastfold_jax.errors import UserError
from fastfold_jax.search import server as server_module
from fastfold_jax.search import server_archive
from fastfold_jax.search.alignments import complete
from fastfold_jax.search.cache import Cache
from fastfold_jax.search.config import SearchOptions
from fastfold_jax.search.server import Pace, Server

__all__ = ["quick"]

FIRST = Record(description="first", sequence="MKVLAAGIVRKWTTD")
SECOND = Record(description="second", sequence="GGSTTKWPLLE")


@pytest.fixture
def replay():
    with serving(Replay()) as server:
        yield server


def options_for(replay, tmp_path, **changes) -> SearchOptions:
    return SearchOptions(msa="server", msa_server=replay.address + "/", search_cache=tmp_path / "cache", **changes)


def counts(replay, method="POST"):
    return sum(1 for used, _ in replay.requests if used == method)


def test_a_single_chain(replay, tmp_path):
    done = complete(job_of(FIRST), options_for(replay, tmp_path, msa_server_contact="me@example.org"))
    (alignment,) = done.chains[0].alignments
    assert alignment.source == "other" and done.chains[0].paired is None
    assert alignment.descriptions == ("101", "msa_0", "101", "env_0")
    assert replay.asked == [{"q": f">101\n{FIRST.sequence}\n", "mode": "env"}]
    (agent,) = replay.agents
    assert agent.startswith("fastfold-jax/") and agent.endswith(" (me@example.org)")
    assert [path for _, path in replay.requests] == [
        "/ticket/msa",
        *["/ticket/msa_0-x"] * 2,
        "/result/download/msa_0-x",
    ]


def test_a_complex_is_paired_row_by_row(replay, tmp_path):
    replay.rows = lambda kind, number, sequence: [sequence[:-2].lower() + sequence, "-" * (len(sequence) - 1) + "A"]
    done = complete(job_of(FIRST, SECOND, FIRST), options_for(replay, tmp_path, msa_server_environmental=False))
    assert sorted(form["mode"] for form in replay.asked) == ["all", "pairgreedy"]
    assert all(form["q"].count(">") == 2 for form in replay.asked)
    assert [chain.paired.source for chain in done.chains] == ["paired"] * 3
    assert [len(chain.paired.residues) for chain in done.chains] == [3] * 3
    # Without its insertions the first row is the query again, and goes.
    msa = assemble(done, preset("model_1_multimer_v3")).msa
    np.testing.assert_array_equal((msa[1] != GAP).nonzero()[0], [14, 25, 40])


def test_a_single_chain_without_alignment_is_not_paired(replay, tmp_path):
    given = complete(job_of(FIRST), options_for(replay, tmp_path)).chains[0]
    job = dataclasses.replace(job_of(FIRST), chains=(given, job_of(SECOND).chains[0]))
    done = complete(job, options_for(replay, tmp_path))
    assert done.chains[1].alignments and done.chains[1].paired is None
    assert not any("pair" in path for _, path in replay.requests)
    assemble(done, preset("model_1_multimer_v3"))


def test_pairing_of_species_in_all_chains(replay, tmp_path):
    complete(job_of(FIRST, SECOND), options_for(replay, tmp_path, msa_server_pairing="complete"))
    assert "paircomplete" in {form["mode"] for form in replay.asked}


def test_results_are_kept(replay, tmp_path):
    options = options_for(replay, tmp_path)
    complete(job_of(FIRST, SECOND), options)
    seen = len(replay.requests)
    done = complete(job_of(SECOND, FIRST), options)  # paired rows depend on the order, others do not
    assert {path.split("/")[2][:4] for _, path in replay.requests[seen:] if path.startswith("/ticket")} == {"pair"}
    assert done.chains[1].alignments[0].query == FIRST.sequence
    seen = len(replay.requests)
    complete(job_of(FIRST), options)
    complete(job_of(FIRST, SECOND), options)
    assert len(replay.requests) == seen


def times(number, answer):
    """Trouble for the first so many requests."""
    left = itertools.count()
    return lambda method, path: answer if next(left) < number else None


PASSING = {
    "busy": times(3, (503, {}, b"")),
    "too many requests": times(3, (429, {"Retry-After": "0"}, b"")),
    "connection closed": times(2, (0, {}, b"")),
    "no JSON": times(3, (200, {}, b"<html>gateway</html>")),
    "rate limit": times(9, (200, {}, json.dumps({"status": "RATELIMIT"}).encode())),
    "unknown for now": times(9, (200, {}, json.dumps({"status": "UNKNOWN"}).encode())),
    "short answer": times(2, (200, {"Content-Length": "1000"}, b"{")),
}


@pytest.mark.parametrize("case", PASSING)
def test_trouble_that_passes(replay, tmp_path, case):
    replay.trouble = PASSING[case]
    done = complete(job_of(FIRST), options_for(replay, tmp_path))
    assert len(done.chains[0].alignments[0].residues) == 4


@pytest.mark.parametrize("place", ["/ticket/msa_0", "/result"])
def test_trouble_on_the_way(replay, tmp_path, place):
    left = itertools.count()

    def trouble(method, path):
        return (502, {}, b"") if path.startswith(place) and next(left) < 4 else None

    replay.trouble = trouble
    complete(job_of(FIRST), options_for(replay, tmp_path))
    assert counts(replay) == 1  # the ticket was not asked for again


LASTING = {
    "busy": ((503, {}, b""), "the server answered 503 .*, 6 times in a row"),
    "not found": ((404, {}, b""), "the server answered 404"),
    "error": ((200, {}, b'{"status": "ERROR"}'), "the server failed at this search"),
    "maintenance": ((200, {}, b'{"status": "MAINTENANCE"}'), "under maintenance"),
    "no JSON": ((200, {}, b"[1, 2"), "no JSON: .*6 times"),
    "a list": ((200, {}, b"[1, 2]"), "no JSON object"),
    "no ticket": ((200, {}, b'{"status": "PENDING", "id": 7}'), "no ticket"),
    "a ticket that is a path": ((200, {}, b'{"status": "PENDING", "id": "../../x"}'), "no ticket"),
    "nested": ((200, {}, b"[" * 100_000), "no JSON"),
    "endless": ((200, {}, b"x" * ((1 << 20) + 1)), "longer than"),
}


@pytest.mark.parametrize("case", LASTING)
def test_trouble_that_lasts(replay, tmp_path, case):
    answer, message = LASTING[case]
    replay.trouble = lambda method, path: answer
    with pytest.raises(UserError, match=message):
        complete(job_of(FIRST), options_for(replay, tmp_path))
    assert len(replay.requests) <= 6


def test_patience_ends(replay, tmp_path):
    replay.waits = 10**9
    with pytest.raises(UserError, match=r"running, for 0.0 minutes; run the command again"):
        complete(job_of(FIRST), options_for(replay, tmp_path, msa_server_patience=0.2 / 60))
    replay.waits = 1
    complete(job_of(FIRST), options_for(replay, tmp_path))
    assert counts(replay) == 1  # the same ticket


def test_a_ticket_that_failed_is_not_kept(replay, tmp_path):
    replay.trouble = lambda method, path: (200, {}, b'{"status": "ERROR"}') if "msa_0" in path else None
    with pytest.raises(UserError, match="failed at this search"):
        complete(job_of(FIRST), options_for(replay, tmp_path))
    complete(job_of(FIRST), options_for(replay, tmp_path))
    assert counts(replay) == 2


def test_a_failure_of_one_ticket_ends_the_wait_for_the_other(replay, tmp_path):
    replay.waits = 10**9
    replay.trouble = lambda method, path: (404, {}, b"") if path == "/ticket/pair" else None
    with pytest.raises(UserError, match="answered 404"):
        complete(job_of(FIRST, SECOND), options_for(replay, tmp_path))
    time.sleep(0.3)  # a request that was on its way may still arrive
    seen = len(replay.requests)
    time.sleep(0.3)
    assert len(replay.requests) == seen


def test_no_server(tmp_path):
    with pytest.raises(UserError, match=r"no answer .*6 times in a row"):
        complete(job_of(FIRST), SearchOptions(msa="server", msa_server="http://127.0.0.1:9", search_cache=tmp_path))


def test_an_interrupted_run_goes_on_with_its_ticket(replay, tmp_path):
    options = options_for(replay, tmp_path)
    monkey = pytest.MonkeyPatch()
    ask = server_module.Http.request

    def interrupted(self, url, **how):
        if "/result/" in url:
            raise KeyboardInterrupt
        return ask(self, url, **how)

    with monkey.context() as patch:
        patch.setattr(server_module.Http, "request", interrupted)
        with pytest.raises(KeyboardInterrupt):
            complete(job_of(FIRST), options)
    assert counts(replay) == 1
    complete(job_of(FIRST), options)
    assert counts(replay) == 1


def test_a_new_ticket_may_be_unknown_for_a_while(replay, tmp_path):
    left = itertools.count()
    replay.trouble = lambda method, path: (
        (200, {}, b'{"status": "UNKNOWN"}') if path == "/ticket/msa_0-x" and next(left) < 9 else None
    )
    complete(job_of(FIRST), options_for(replay, tmp_path))
    assert counts(replay) == 1


def test_a_ticket_that_the_server_has_forgotten_is_asked_for_anew(replay, tmp_path):
    options = options_for(replay, tmp_path)
    server = Server.of(options, Cache(options.cache_directory))
    query = f">101\n{FIRST.sequence}\n"
    server.cache.put(Cache.key(form=1, ticket=query, server=server.address, mode="env"), b"long_gone")
    complete(job_of(FIRST), options)
    assert ("GET", "/ticket/long_gone") in replay.requests and counts(replay) == 1


def rows_of(number: int, *rows: str) -> bytes:
    return f">{number}\n".encode() + "\n>hit\n".join(rows).encode() + b"\n\0"


HOSTILE = {
    "no archive": (b"nothing", "no tar archive"),
    "empty": (b"", "no tar archive"),
    "cut": (tar({A3M: rows_of(101, FIRST.sequence) * 9})[:-60], "no tar archive|holds no alignment"),
    "nothing in it": (tar({}), "holds no alignment of query 101"),
    "another query": (tar({A3M: rows_of(102, FIRST.sequence)}), "holds no alignment of query 101"),
    "another sequence": (tar({A3M: rows_of(101, "MKV")}), "of another sequence than"),
    "uneven rows": (tar({A3M: rows_of(101, FIRST.sequence, "MKV")}), "aligned columns"),
    "binary": (tar({A3M: b">101\n\x01\xff\n"}), "UTF-8|no letter"),
    "a huge number": (tar({A3M: b">" + b"9" * 5000 + b"\nMKV\n"}), "holds no alignment of query 101"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_answers(replay, tmp_path, case):
    archive, message = HOSTILE[case]
    replay.trouble = lambda method, path: (200, {}, archive) if path.startswith("/result") else None
    options = options_for(replay, tmp_path)
    with pytest.raises(UserError, match=message):
        complete(job_of(FIRST), options)
    replay.trouble = lambda method, path: None
    complete(job_of(FIRST), options)  # nothing of it was kept


def test_unequal_pairs(replay, tmp_path):
    replay.rows = lambda kind, number, sequence: [sequence] * (number - 100)
    with pytest.raises(UserError, match="must have equally many rows, but have 2, 3"):
        complete(job_of(FIRST, SECOND), options_for(replay, tmp_path))


def test_names_in_archives_lead_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive = tar({"../../evil.cif": b"a", "/etc/b.cif": b"b", "c.txt": b"c"})
    assert server_archive.files(archive, lambda name: name.endswith(".cif"), place="x") == {
        "evil.cif": b"a",
        "b.cif": b"b",
    }
    assert not list(tmp_path.iterdir())


def test_archives_that_unpack_to_too_much(monkeypatch):
    monkeypatch.setattr(server_archive, "_MOST_BYTES", 1000)
    with pytest.raises(UserError, match="unpacks to over"):
        server_archive.files(tar({"a": b"x" * 600, "b": b"y" * 600}), lambda name: True, place="x")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_archive_gives_results_or_a_user_error(data):
    whole = tar({A3M: rows_of(101, FIRST.sequence, FIRST.sequence), "pdb70.m8": b"101\t1abc_A\t1\n"})
    at = data.draw(st.integers(0, len(whole)))
    noise = data.draw(st.binary(max_size=40))
    cut = data.draw(st.integers(0, 60))
    for archive in (noise, whole[:at] + noise + whole[at + cut :], tar({A3M: noise, "pdb70.m8": noise})):
        try:
            results = server_archive.results(archive, "msa", [101], place="server")
        except UserError as error:
            assert str(error).startswith("server: ")
        else:
            assert len(results) == 1 and b"\0" in results[0]


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "status"]), inner, max_size=3),
)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_ticket_gives_an_answer_or_a_user_error(answer):
    class Canned:
        def request(self, url, *, form=None, most):
            return answer

    server = Server(
        address="http://x",
        http=Canned(),
        pace=Pace(first=0.0, longest=0.0, patience=0.01),
        environmental=True,
        pairing="greedy",
        cache=Cache(None),
    )
    with pytest.raises(UserError):
        server.alignments([FIRST.sequence], pairing=False, report=lambda *_: None)
