"""Fetching a file from a server that breaks off, lies, or is not there."""

import hashlib
import socket

import pytest
from http_server import Site, serve

from fastfold_jax.params.fetch import Patience, fetch
from fastfold_jax.params.npz import ParamsError

BODY = bytes(range(256)) * 20_000  # 5 MB: several blocks
QUICK = Patience(attempts=3, first_wait=0.001, timeout=5)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "archive.tar"


def only(directory):
    return sorted(path.name for path in directory.iterdir())


def test_whole_file_arrives_and_its_digest_is_returned(target):
    seen = []
    with serve(Site(BODY)) as site:
        digest = fetch(site.url, target, progress=lambda *step: seen.append(step), patience=QUICK)
    assert target.read_bytes() == BODY
    assert digest == hashlib.sha256(BODY).hexdigest()
    assert only(target.parent) == ["archive.tar"]
    assert [step for step in seen if step[0] == "download"][-1] == ("download", len(BODY), len(BODY))
    assert seen[-1] == ("verify", len(BODY), len(BODY))


def test_broken_connection_resumes_where_it_broke(target):
    with serve(Site(BODY, cuts=[2_000_000, 1_000_001])) as site:
        fetch(site.url, target, patience=QUICK)
    assert target.read_bytes() == BODY
    ranges = [asked for method, asked in site.requests if method == "GET"]
    assert ranges == [None, "bytes=2000000-", "bytes=3000001-"]


def test_later_call_goes_on_from_what_an_earlier_one_kept(target):
    with serve(Site(BODY, cuts=[3_000_000])) as site, pytest.raises(ParamsError, match="3,000,000 bytes that arrived"):
        fetch(site.url, target, patience=Patience(attempts=1))
    with serve(Site(BODY)) as site:
        fetch(site.url, target, patience=QUICK)
    assert target.read_bytes() == BODY
    assert site.requests[-1] == ("GET", "bytes=3000000-")


def test_progress_forgives_earlier_failures(target):
    with serve(Site(BODY, cuts=[100_000] * 10)) as site:
        fetch(site.url, target, patience=Patience(attempts=2, first_wait=0.001))
    assert target.read_bytes() == BODY


def test_file_that_changed_on_the_server_is_fetched_anew(target):
    with serve(Site(BODY[::-1], cuts=[3_000_000])) as site, pytest.raises(ParamsError):
        fetch(site.url, target, patience=Patience(attempts=1))
    with serve(Site(BODY, etag='"v2"')) as site:
        fetch(site.url, target, patience=QUICK)
    assert target.read_bytes() == BODY
    assert site.requests[-1] == ("GET", None)


def test_server_without_ranges_starts_over(target):
    with serve(Site(BODY, ranges=False, cuts=[3_000_000])) as site:
        fetch(site.url, target, patience=QUICK)
    assert target.read_bytes() == BODY


def test_busy_server_is_asked_again(target):
    with serve(Site(BODY, statuses=[503, 429])) as site:
        fetch(site.url, target, patience=QUICK)
    assert target.read_bytes() == BODY


def test_absent_file_fails_at_once(target):
    with serve(Site(BODY, statuses=[404])) as site, pytest.raises(ParamsError, match="404 Not Found"):
        fetch(site.url, target, patience=QUICK)
    assert len(site.requests) == 1
    assert only(target.parent) == []


def test_no_server_is_reported_after_some_attempts(target):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/archive.tar"
    with pytest.raises(ParamsError, match="3 times in a row"):
        fetch(url, target, patience=QUICK)


@pytest.mark.parametrize("fault", [{"announced_md5": b"\0" * 16}, {"etag": '"v1"', "corrupt": True}])
def test_damaged_file_is_not_kept(target, fault):
    site = Site(BODY, **{key: value for key, value in fault.items() if key != "corrupt"})
    if "corrupt" in fault:  # what arrived in an earlier call differs from the server's file
        target.with_name("archive.tar.part").write_bytes(b"\0" * 1_000)
        target.with_name("archive.tar.part.tag").write_text(site.etag)
    with serve(site), pytest.raises(ParamsError, match="arrived damaged"):
        fetch(site.url, target, patience=QUICK)
    assert not target.exists()
    assert not target.with_name("archive.tar.part").exists()
    site.announced_md5 = None
    with serve(site):
        fetch(site.url, target, patience=QUICK)
    assert target.read_bytes() == BODY


def test_wrong_sha256_keeps_the_bytes_for_a_corrected_call(target):
    right = hashlib.sha256(BODY).hexdigest()
    with serve(Site(BODY)) as site:
        with pytest.raises(ParamsError, match=right):
            fetch(site.url, target, sha256="0" * 64, patience=QUICK)
        assert not target.exists()
        fetch(site.url, target, sha256=right.upper(), patience=QUICK)
    assert target.read_bytes() == BODY
    assert [method for method, _ in site.requests] == ["HEAD", "GET", "HEAD"]


def test_file_larger_than_the_disk_is_refused_before_it_starts(target):
    with serve(Site(BODY, announced_size=1 << 60)) as site, pytest.raises(ParamsError, match="free on that disk"):
        fetch(site.url, target, patience=QUICK)
    assert [method for method, _ in site.requests] == ["HEAD"]


def test_other_schemes_are_refused(target):
    with pytest.raises(ParamsError, match="http"):
        fetch("file:///etc/hostname", target)


def test_unwritable_target_is_reported(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with serve(Site(BODY)) as site, pytest.raises(ParamsError, match="cannot be written"):
        fetch(site.url, blocker / "archive.tar", patience=QUICK)
