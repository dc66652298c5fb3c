"""Clips, stores and runs in a bucket, through s3fs, against a server that speaks S3 (tests/s3_server.py), with a network
between that fails on purpose (tests/faulty_proxy.py)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from botocore.retries.standard import ExponentialBackoff
from faulty_proxy import FAULTS, FaultyProxy
from s3_server import REAL, environment, new_bucket, speak_to
from scipy.io import wavfile

from jobs.report import thumbnails
from pipeline import files
from pipeline.clip import Clip, Word
from pipeline.corpora import open_corpus
from pipeline.corpora.reading import read_corpus
from pipeline.extract import extract_rows, extract_shard, pending
from pipeline.files import Folder, StorageError, ray_storage
from pipeline.isolated import IsolatedExtractors
from pipeline.media import open_media
from pipeline.store import Store
from pipeline.streams.acoustic import Acoustic
from rrnn.data import open_store, read_shard
from rrnn.run import RunFolder

WAIT = 0.02  # seconds between attempts, in place of a random number of them


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: WAIT)
    with FaultyProxy(server, seed=0, share=0.0) as proxy:
        speak_to(monkeypatch, environment(proxy.url))
        yield proxy


@pytest.fixture
def bucket(proxy: FaultyProxy) -> str:
    """On a network that loses every tenth request, in all ways."""
    name = new_bucket()
    proxy.share = 0.1
    return name


def put_clips(bucket: str, folder: Path) -> None:
    for i in range(3):
        wavfile.write(folder / f"{i}.wav", 16000, (9000 * np.sin(np.arange(8000) * (0.05 + 0.02 * i))).astype(np.int16))
        Folder(f"{bucket}/clips/deep").write(f"{i}.wav", (folder / f"{i}.wav").read_bytes())
    Folder(f"{bucket}/clips").write("notes.txt", b"not a clip")


def test_a_store_in_a_bucket_is_the_store_on_the_disk(bucket: str, tmp_path: Path) -> None:
    put_clips(bucket, tmp_path)
    clips, _ = read_corpus(open_corpus("folder"), f"{bucket}/clips")
    assert [(c.clip_id, c.uri) for c in clips] == [(f"deep/{i}.wav", f"{bucket}/clips/deep/{i}.wav") for i in range(3)]
    clips.append(Clip(clip_id="gone", uri=f"{bucket}/clips/gone.wav"))
    stores = [Store.create(url, "folder", 2) for url in (f"{bucket}/store", str(tmp_path / "store"))]
    for store in stores:
        assert store.add_clips(clips) == (4, 0)
        store.begin_stream(Acoustic())
        todo, _ = pending(store, [Acoustic()])
        assert len(todo) == 2
        for work in todo:
            extract_shard(store, Acoustic(), work.shard)
        assert pending(store, [Acoustic()]) == ([], 2)
        assert store.outcome("acoustic")["status"].to_pylist() == ["ok", "ok", "ok", "error"]
        assert store.add_clips(clips) == (0, 4)
    remote, local = (
        {n: s.folder.at("features/acoustic").read(n) for n in s.folder.at("features/acoustic").names()} for s in stores
    )
    assert remote == local
    index = open_store(f"{bucket}/store")
    assert read_shard(index, "00000-0001").equals(read_shard(open_store(str(tmp_path / "store")), "00000-0001"))


def test_a_run_in_a_bucket(bucket: str) -> None:
    run = RunFolder(f"{bucket}/runs/first")
    assert not run.exists("summary.json")
    run.write("summary.json", b'{"epochs": 1}')
    run.write("summary.json", b'{"epochs": 2}')
    assert run.exists("summary.json")
    assert run.read_json("summary.json") == {"epochs": 2}


def test_a_clip_in_a_bucket_is_fetched_and_left_nowhere(bucket: str, tmp_path: Path) -> None:
    put_clips(bucket, tmp_path)
    with open_media(Clip(clip_id="x", uri=f"{bucket}/clips/deep/1.wav")) as media:
        path = Path(media.path)
        assert len(media.audio()) == 8000
    assert not path.exists()
    example = {"clip_id": "x", "uri": f"{bucket}/clips/gone.mp4", "start": None, "end": None}
    assert thumbnails(example, [0.0, 1.0]) == [None, None]


def test_transcripts_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    put_clips(bucket, tmp_path)
    cue = b"1\n00:00:00,250 --> 00:00:00,500\nhello\n"
    for i in range(2):
        Folder(f"{bucket}/clips/deep").write(f"{i}.srt", cue)
    hello = (Word("hello", 0.25, 0.5),)
    clips, _ = read_corpus(open_corpus("folder"), f"{bucket}/clips")
    assert [c.words for c in clips] == [hello, hello, None]
    rows = b"path,transcript_file\ndeep/0.wav,\ndeep/1.wav,deep/gone.srt\ndeep/2.wav,deep/1.srt\n"
    Folder(f"{bucket}/clips").write("list.csv", rows)
    clips, problems = read_corpus(open_corpus("folder"), f"{bucket}/clips/list.csv")
    assert [c.words for c in clips] == [hello, None, hello]
    assert [(p.kind, p.where) for p in problems if p.kind != "note"] == [("missing", f"{bucket}/clips/deep/gone.srt")]


@pytest.mark.parametrize("kind", FAULTS)
def test_every_kind_of_fault_is_met_and_overcome(kind: str, proxy: FaultyProxy) -> None:
    folder, data = Folder(f"{new_bucket()}/x"), bytes(range(256)) * 40
    storage = ray_storage(folder.url)
    requests = ["PUT /", "GET /", "GET /"] if kind != "cut_upload" else ["PUT /"]
    for request in requests:  # one after the other: the write, the listing, the read
        proxy.script.append((request, kind))
    folder.write("a.bin", data)
    assert folder.names() == ["a.bin"]
    assert folder.read("a.bin") == data
    proxy.script += [("PUT /", kind), ("GET /", kind)][: len(requests)]
    path = f"{storage['storage_path']}/b.bin"  # as Ray Train writes and reads
    with storage["storage_filesystem"].open_output_stream(path) as file:
        file.write(data)
    with storage["storage_filesystem"].open_input_file(path) as file:
        assert file.read() == data
    assert not proxy.script
    assert proxy.counts[kind if kind != "cut" else "lost"] + proxy.counts["cut"] >= len(requests) + 1


def test_an_upload_in_parts_is_there_once_and_leaves_nothing(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = new_bucket()
    fs, path = fsspec.core.url_to_fs(f"{bucket}/store/large")
    data = bytes(range(256)) * 45_000  # 11.5 MB in parts of 5
    proxy.script += [("PUT /", "cut_upload"), ("uploadId", "lost")]
    proxy.script += [("POST /", "passed"), ("POST /", "lost"), ("POST /", "no_upload")]  # begun; ended, unheard of; again
    fs.pipe_file(path, data, chunksize=5 << 20)
    proxy.script += [("GET /", "cut")]
    assert fs.cat_file(path, chunksize=5 << 20) == data  # in parts too, as objects above 50 MB
    assert not proxy.script
    assert fs.list_multipart_uploads(path.partition("/")[0]) == []

    # a writer that is killed leaves parts behind, and so does one beside the store, which is left alone
    for key in ("store/features/killed", "elsewhere"):
        fs.call_s3("create_multipart_upload", Bucket=path.partition("/")[0], Key=key)
    folder = Folder(f"{bucket}/store")
    if REAL:  # to moto all uploads are years old
        assert folder.sweep() == 0, "young uploads may be another's that still writes"
    monkeypatch.setattr(files, "SWEEP_AFTER", -60.0)
    proxy.script += [("DELETE /", "lost"), ("DELETE /", "no_upload")]
    assert folder.sweep() == 1
    assert not proxy.script
    assert [upload["Key"] for upload in fs.list_multipart_uploads(path.partition("/")[0])] == ["elsewhere"]


def test_a_network_that_stays_down_stops_the_work_and_blames_no_clip(
    proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speak_to(monkeypatch, {"AWS_MAX_ATTEMPTS": "2"})
    bucket = new_bucket()
    put_clips(bucket, tmp_path)
    clip = Clip(clip_id="x", uri=f"{bucket}/clips/deep/1.wav")
    isolated = IsolatedExtractors([Acoustic()], clip_seconds=60)
    assert [row.status for row in isolated.rows(Acoustic(), [clip])] == ["ok"]
    proxy.down = True
    message = f"{clip.uri}: can't connect to {proxy.url}, 2 times|{clip.uri}: head_object at {proxy.url} failed, 2 times"
    for run in (extract_rows, isolated.rows):
        with pytest.raises(StorageError, match=message):
            run(Acoustic(), [clip], 60)
    isolated.close()
    for call in (Folder(f"{bucket}/clips").names, lambda: Folder(bucket).exists("x"), lambda: Store(f"{bucket}/store")):
        with pytest.raises(StorageError):
            call()
    proxy.down = False
    assert [row.status for row in extract_rows(Acoustic(), [clip], 60)] == ["ok"]


def test_a_slow_network_takes_none_of_a_clips_time(proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = new_bucket()
    put_clips(bucket, tmp_path)
    proxy.script += [("GET /", "slow_down")] * 3
    limit = 0.5  # seconds: more than the clip's own work, less than the waiting between attempts
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.3)
    began = time.monotonic()
    rows = extract_rows(Acoustic(), [Clip(clip_id="x", uri=f"{bucket}/clips/deep/1.wav")], limit)
    assert time.monotonic() - began > limit
    assert [row.status for row in rows] == ["ok"]
