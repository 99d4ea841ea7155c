"""The cache of results: what is read back is whole or nothing."""

import os
import signal
import subprocess
import sys

import pytest

from fastfold_jax.search.cache import Cache


def test_texts_come_back(tmp_path):
    cache = Cache(tmp_path / "made" / "when needed")
    key = Cache.key(form=1, sequence="MKV", settings={"E": "1"})
    assert cache.get(key) is None
    cache.put(key, b">a\nMKV\n")
    assert cache.get(key) == b">a\nMKV\n"
    assert Cache(tmp_path / "made" / "when needed").get(key) == b">a\nMKV\n"
    cache.drop(key)
    assert cache.get(key) is None


def test_keys_tell_everything_apart():
    keys = {
        Cache.key(form=1, a="x"),
        Cache.key(form=2, a="x"),
        Cache.key(form=1, a="y"),
        Cache.key(form=1, b="x"),
        Cache.key(form=1, a=["x"]),
    }
    assert len(keys) == 5
    assert Cache.key(a=1, b=2) == Cache.key(b=2, a=1)


def test_without_a_directory_nothing_is_kept():
    cache = Cache(None)
    cache.put("00", b"x")
    assert cache.get("00") is None


@pytest.mark.parametrize("damage", ["cut", "altered", "emptied", "plain"])
def test_a_damaged_text_is_none(tmp_path, damage, caplog):
    cache = Cache(tmp_path)
    cache.put("ab", b">a\n" + os.urandom(300))
    (path,) = tmp_path.rglob("ab.gz")
    data = path.read_bytes()
    if damage == "altered":
        data = data[:100] + bytes([data[100] ^ 1]) + data[101:]
    path.write_bytes({"cut": data[:50], "altered": data, "emptied": b"", "plain": b">a\nMKV\n"}[damage])
    assert cache.get("ab") is None
    assert "made again" in caplog.text


def test_a_directory_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("x")
    Cache(tmp_path / "file").put("ab", b"x")
    assert "cannot be kept" in caplog.text


def test_a_write_that_fails_leaves_the_earlier_text(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    cache.put("ab", b"earlier")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    cache.put("ab", b"later")
    assert cache.get("ab") == b"earlier" and len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_a_killed_process_leaves_no_half_of_a_text(tmp_path):
    cache = Cache(tmp_path)
    cache.put("ab", os.urandom(1 << 20))
    program = (
        "import os, sys, pathlib\n"
        "from fastfold_jax.search.cache import Cache\n"
        f"cache = Cache(pathlib.Path({str(tmp_path)!r}))\n"
        "text = os.urandom(1 << 20)\n"
        "print('started', flush=True)\n"
        "for number in range(100000): cache.put('ab', text)\n"
    )
    for pause in (0.0, 0.05, 0.11):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        process.stdout.readline()
        try:
            process.wait(0.1 + pause)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        assert len(cache.get("ab") or b"") == 1 << 20
