"""Clips, stores and runs in a bucket, through s3fs, against a server on this machine that speaks S3 (moto)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import s3fs
from moto.server import ThreadedMotoServer
from scipy.io import wavfile

from jobs.report import thumbnails
from pipeline.clip import Clip, Word
from pipeline.corpora import open_corpus
from pipeline.corpora.reading import read_corpus
from pipeline.extract import extract_shard, pending
from pipeline.files import Folder
from pipeline.media import open_media
from pipeline.store import Store
from pipeline.streams.acoustic import Acoustic
from rrnn.data import open_store, read_shard
from rrnn.run import RunFolder


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"speech-{uuid.uuid4().hex}"  # moto keeps its buckets for as long as the process lives
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


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
