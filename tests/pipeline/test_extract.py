"""Extraction, with and without Ray, of real and broken files, interrupted and resumed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from processes import Job, one_killed
from scipy.io import wavfile
from typer.testing import CliRunner

from jobs.extract import cli
from pipeline.clip import Clip, ClipError, Modality
from pipeline.extract import Work, extract_rows, extract_shard, pending
from pipeline.media import Media
from pipeline.on_ray import extract_on_ray
from pipeline.store import Store
from pipeline.streams import make_stream
from pipeline.streams.acoustic import Acoustic
from pipeline.streams.base import Extractor, Features

RATE = 16_000


def tone(path: Path, hertz: float, seconds: float = 0.5) -> None:
    t = np.arange(int(RATE * seconds)) / RATE
    wavfile.write(path, RATE, (8000 * np.sin(2 * np.pi * hertz * t)).astype(np.int16))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten good clips and six bad ones."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for i in range(10):
        tone(folder / f"good{i}.wav", 100 + 20 * i)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("this is not a recording")
    (folder / "pointer.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (folder / "noise.mp4").write_bytes(os.urandom(5000))
    (folder / "cut.wav").write_bytes((folder / "good0.wav").read_bytes()[:30])
    (folder / "gone.wav").symlink_to(folder / "nowhere.wav")
    return folder


def make_store(source: Path, out: Path, shard_size: int = 4) -> Store:
    from pipeline.corpora.folder import FolderCorpus

    store = Store.create(str(out), "folder", shard_size)
    store.add_clips(FolderCorpus().clips(str(source), print))
    store.begin_stream(Acoustic())
    return store


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_one_clip_in_one_row_out_whatever_the_clip(source: Path, tmp_path: Path) -> None:
    store = make_store(source, tmp_path / "store", shard_size=32)
    report = extract_shard(store, Acoustic(), "00000-0000")
    rows = {r["clip_id"]: r for r in store.read_features("acoustic", "00000-0000").to_pylist()}
    assert len(rows) == 16
    assert (report.ok, report.absent, report.error) == (10, 0, 6)
    bad = {k: r["reason"] for k, r in rows.items() if r["status"] == "error"}
    assert set(bad) == {"empty.wav", "text.wav", "pointer.wav", "noise.mp4", "cut.wav", "gone.wav"}
    assert all(bad.values())
    assert "git-lfs pointer" in bad["pointer.wav"]
    assert bad["empty.wav"] == "the file is empty"
    assert "No such file" in bad["gone.wav"]
    assert all(r["n_frames"] == 51 for r in rows.values() if r["status"] == "ok")


@dataclass(frozen=True)
class Fussy(Extractor):
    name: ClassVar[str] = "fussy"
    version: ClassVar[str] = "1"
    modality: ClassVar[Modality] = "audio"
    frame_shift: ClassVar[float | None] = None
    licence: ClassVar[str] = "none"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("x",)

    def extract(self, clip: Clip, media: Media) -> Features:
        if clip.clip_id == "bug":
            raise KeyError("a bug")
        if clip.clip_id == "slow":
            time.sleep(0.05)
            media.deadline.check()
        if clip.clip_id == "bad":
            raise ClipError("no good")
        n = 0 if clip.clip_id == "short" else 1
        return Features(np.zeros((n, 1), np.float32), np.zeros(n))


def test_a_bug_is_a_crash_and_a_bad_clip_is_a_row(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", 100)
    clips = [Clip(clip_id=i, uri=str(tmp_path / "a.wav")) for i in ("fine", "bad", "short", "slow")]
    rows = extract_rows(Fussy(), clips, clip_seconds=0.04)
    assert [(r.status, r.reason) for r in rows] == [
        ("ok", None),
        ("error", "no good"),
        ("error", "too short: no frame"),
        ("error", "timeout: took longer than 0.04 s"),
    ]
    with pytest.raises(KeyError, match="a bug"):
        extract_rows(Fussy(), [Clip(clip_id="bug", uri=str(tmp_path / "a.wav"))])


def test_an_option_that_a_stream_does_not_have_is_named() -> None:
    with pytest.raises(ValueError, match="stream 'face' has no option hight: it has bundle, height"):
        make_stream("face", {"hight": 240})
    with pytest.raises(ValueError, match="unknown stream 'faces'"):
        make_stream("faces")


def test_what_exists_is_done(source: Path, tmp_path: Path) -> None:
    store = make_store(source, tmp_path / "store")
    todo, done = pending(store, [Acoustic()])
    assert (len(todo), done) == (4, 0)
    extract_shard(store, Acoustic(), "00000-0002")
    todo, done = pending(store, [Acoustic()])
    assert done == 1
    assert Work("acoustic", "00000-0002") not in todo


def test_ray_writes_what_the_bare_loop_writes(source: Path, tmp_path: Path, ray_cluster: None) -> None:
    bare, rayed = make_store(source, tmp_path / "bare"), make_store(source, tmp_path / "rayed")
    for shard in bare.shards():
        extract_shard(bare, Acoustic(), shard)
    todo, _ = pending(rayed, [Acoustic()])
    reports = list(extract_on_ray(rayed, [Acoustic()], todo, clip_seconds=60))
    assert sorted(r.shard for r in reports) == rayed.shards()
    assert sum(r.error for r in reports) == 6
    assert files(tmp_path / "rayed") == files(tmp_path / "bare")


def test_a_bug_in_a_worker_stops_the_job_and_says_what_it_was(source: Path, tmp_path: Path, ray_cluster: None) -> None:
    store = make_store(source, tmp_path / "store")
    (tmp_path / "store/manifest/part-00000.parquet").write_bytes(b"damaged")
    with pytest.raises(Exception, match="Parquet file size is 7 bytes"):
        list(extract_on_ray(store, [Acoustic()], [Work("acoustic", "00000-0000")], clip_seconds=60))


@pytest.mark.slow
def test_killed_driver_and_killed_worker_lose_nothing(tmp_path: Path, ray_cluster: str) -> None:
    source = tmp_path / "clips"
    source.mkdir()
    for i in range(24):
        tone(source / f"{i:02d}.wav", 100 + 5 * i, seconds=8)
    done = tmp_path / "killed/features/acoustic"
    arguments = [str(source), "--out", str(tmp_path / "killed"), "--streams", "acoustic", "--shard-size", "2"]

    first = Job(["jobs.extract", *arguments], tmp_path / "log")
    first.until(lambda: len(list(done.glob("*.parquet"))) >= 3)
    first.kill()
    kept = {p.name: p.stat().st_mtime_ns for p in done.glob("0*.parquet")}
    assert 3 <= len(kept) < 12

    with one_killed(ray_cluster, "_ExtractWorker", lambda: len(list(done.glob("*.parquet"))) > len(kept)):
        said = CliRunner().invoke(cli, arguments, catch_exceptions=False).output
    assert f"{len(kept)} done, {12 - len(kept)} to do" in said
    assert {name: (done / name).stat().st_mtime_ns for name in kept} == kept  # nothing was done twice

    store = make_store(source, tmp_path / "whole", shard_size=2)
    for shard in store.shards():
        extract_shard(store, Acoustic(), shard)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
