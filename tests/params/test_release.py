"""Installing a release: unpacking, manifest, licence notice, and archives that cannot be trusted."""

import hashlib
import io
import subprocess
import tarfile

import pytest
from http_server import Site, serve

from fastfold_jax.params import release
from fastfold_jax.params.fetch import Patience
from fastfold_jax.params.npz import ParamsError

RELEASE = release.RELEASES["2022-12-06"]
QUICK = Patience(attempts=2, first_wait=0.001, timeout=5)
CONTENT = {name: name.encode() * 999 for name in RELEASE.files}


def tar_of(files: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return buffer.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def install(body: bytes, directory, **options):
    with serve(Site(body)) as site:
        digests = release.install(RELEASE, directory, url=site.url, patience=QUICK, **options)
    return digests, site


def test_release_is_unpacked_with_manifest_and_notice(tmp_path):
    directory = tmp_path / "made" / "params"
    digests, site = install(tar_of({"LICENSE": b"CC BY 4.0"} | CONTENT), directory)
    assert {name: (directory / name).read_bytes() for name in CONTENT} == CONTENT
    assert digests == {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    assert sorted(path.name for path in directory.iterdir()) == sorted([*CONTENT, release.MANIFEST, release.NOTICE])
    notice = (directory / release.NOTICE).read_text()
    assert "CC BY 4.0" in notice
    assert "DeepMind" in notice
    assert site.url in notice
    checked = subprocess.run(["sha256sum", "-c", release.MANIFEST], cwd=directory, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_complete_release_is_not_fetched_again(tmp_path):
    first, _ = install(tar_of(CONTENT), tmp_path)
    second, site = install(b"", tmp_path)
    assert second == first
    assert site.requests == []


def test_deleted_file_is_restored(tmp_path):
    install(tar_of(CONTENT), tmp_path)
    (tmp_path / RELEASE.files[3]).unlink()
    install(tar_of(CONTENT), tmp_path)
    assert (tmp_path / RELEASE.files[3]).read_bytes() == CONTENT[RELEASE.files[3]]


def test_kept_archive_is_used_when_files_are_lost(tmp_path):
    install(tar_of(CONTENT), tmp_path, keep_archive=True)
    (tmp_path / RELEASE.files[0]).unlink()
    with pytest.raises(ParamsError, match="SHA-256"):
        install(b"", tmp_path, sha256="0" * 64)
    _, site = install(b"", tmp_path)
    assert site.requests == []
    assert (tmp_path / RELEASE.files[0]).is_file()


def test_members_in_folders_are_laid_flat_and_others_left_out(tmp_path):
    files = {f"./params/{name}": content for name, content in CONTENT.items()} | {"./params/run.sh": b"rm -rf"}
    install(tar_of(files), tmp_path)
    assert (tmp_path / RELEASE.files[0]).is_file()
    assert not list(tmp_path.rglob("run.sh"))


@pytest.mark.parametrize(
    "members",
    [
        {"files": {"../params_model_1.npz": b"outside"}},
        {"files": {"params/../../params_model_1.npz": b"outside"}},
        {"extra": link("params_model_1.npz", "/etc/passwd")},
        {"extra": link("params_model_1.npz", "../../elsewhere")},
    ],
    ids=["parent", "hidden parent", "absolute link", "relative link"],
)
def test_malicious_archive_is_refused_and_writes_nothing_outside(tmp_path, members):
    directory = tmp_path / "params"
    body = tar_of(members.get("files", {}), *([members["extra"]] if "extra" in members else []))
    with pytest.raises(ParamsError, match="no sound tar archive"):
        install(body, directory)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params"]
    assert not list(directory.glob("*.npz"))


@pytest.mark.parametrize("length", [100, 5_000, 40_000])
def test_truncated_archive_is_reported(tmp_path, length):
    with pytest.raises(ParamsError, match=r"no sound tar archive|lacks \d+ of its 15 files"):
        install(tar_of(CONTENT)[:length], tmp_path)
    assert release.read_manifest(tmp_path) == {}


def test_incomplete_archive_is_reported(tmp_path):
    with pytest.raises(ParamsError, match="lacks 1 of its 15 files"):
        install(tar_of({name: CONTENT[name] for name in RELEASE.files[1:]}), tmp_path)


def test_verify_tells_sound_changed_and_unknown_files_apart(tmp_path):
    install(tar_of(CONTENT), tmp_path)
    sound, changed, unknown = tmp_path / RELEASE.files[0], tmp_path / RELEASE.files[1], tmp_path / "params_mine.npz"
    changed.write_bytes(b"x")
    unknown.write_bytes(b"x")
    assert [release.verify(path) for path in (sound, changed, unknown)] == [True, False, None]


def test_second_release_keeps_the_first_ones_manifest(tmp_path):
    install(tar_of(CONTENT), tmp_path)
    older = release.RELEASES["2022-03-02"]
    with serve(Site(tar_of({name: name.encode() for name in older.files}))) as site:
        release.install(older, tmp_path, url=site.url, patience=QUICK)
    assert set(release.read_manifest(tmp_path)) == {*RELEASE.files, *older.files}


def test_every_multimer_preset_is_in_some_release():
    from fastfold_jax.config.presets import PRESETS

    published = {name for entry in release.RELEASES.values() for name in entry.files}
    assert {f"params_{name}.npz" for name in PRESETS if name != "demo"} == published
