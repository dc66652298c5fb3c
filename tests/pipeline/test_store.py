from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import duckdb
import numpy as np
import polars
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.clip import Clip, Modality, Word
from pipeline.files import Folder, StorageError
from pipeline.store import ClipRow, Store, features_table
from pipeline.streams.base import Extractor, Features


@dataclass(frozen=True)
class Toy(Extractor):
    """Two columns; nothing is extracted here, the store is what is tested."""

    scale: float = 1.0
    name: ClassVar[str] = "toy"
    version: ClassVar[str] = "1"
    modality: ClassVar[Modality] = "audio"
    frame_shift: ClassVar[float | None] = 0.5
    licence: ClassVar[str] = "none"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("left", "right")


def clips(*names: str) -> list[Clip]:
    return [Clip(clip_id=n, uri=f"/media/{n}.wav", speaker="s", emotion="happy", attributes={"k": n}) for n in names]


def ok(clip_id: str, values: list[list[float]], tokens: tuple[str, ...] | None = None) -> ClipRow:
    array = np.array(values, np.float32).reshape(len(values), 2)
    return ClipRow(clip_id, "ok", None, Features(array, np.arange(len(values)) * 0.5, tokens))


def test_manifest_gives_back_every_field(tmp_path: Path) -> None:
    full = Clip(
        clip_id="x",
        uri="s3://b/x.flv",
        start=0.25,
        end=1.5,
        speaker="1001",
        transcript="don't",
        words=(Word("don't", 0.0, 0.5),),
        emotion="sad",
        intensities={"happy": 0.0, "sad": 2.5},
        fold="3",
        attributes={"level": "HI"},
    )
    bare = Clip(clip_id="y", uri="/y.wav")
    store = Store.create(str(tmp_path / "s"), "folder")
    assert store.add_clips([full, bare]) == (2, 0)
    assert store.clips("00000-0000") == [full, bare]


def test_new_clips_disturb_no_shard(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), "folder", shard_size=2)
    store.add_clips(clips("b", "d", "f"))
    before = {s: store.clips(s) for s in store.shards()}
    assert list(before) == ["00000-0000", "00000-0001"]
    assert store.add_clips(clips("a", "b", "c", "d", "e", "f")) == (3, 3)
    assert {s: store.clips(s) for s in before} == before
    assert [[c.clip_id for c in store.clips(s)] for s in store.shards()] == [["b", "d"], ["f"], ["a", "c"], ["e"]]
    assert store.add_clips(clips("a", "b", "c", "d", "e", "f")) == (0, 6)


def test_a_clip_that_changed_in_the_source_is_refused_and_one_that_moved_is_not(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), "folder")
    (a,) = clips("a")
    store.add_clips([a])
    moved = replace(a, uri="/elsewhere/a.wav", attributes={"note": "new"})
    assert store.add_clips([moved]) == (0, 1)
    assert store.clips("00000-0000") == [moved]
    relabelled = replace(moved, emotion="sad", speaker="anna", fold="test", shares={"sad": 1.0})
    before = store.manifest_rows("00000-0000")["digest"].to_pylist()
    assert store.add_clips([relabelled]) == (0, 1)
    assert store.clips("00000-0000") == [relabelled]
    assert store.manifest_rows("00000-0000")["digest"].to_pylist() != before  # a run that was begun on it notices
    for other in (replace(a, start=1.0), replace(a, transcript="hello")):
        with pytest.raises(ValueError, match="clip 'a' is not what it was"):
            store.add_clips([other])


def test_a_clip_id_twice_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), "folder")
    with pytest.raises(ValueError, match="clip id 'a' comes twice"):
        store.add_clips(clips("a", "b", "a"))
    assert store.shards() == []


def test_features_are_one_row_a_clip_with_what_made_them(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), "folder")
    here = clips("a", "b", "c")
    store.add_clips(here)
    toy = Toy()
    store.begin_stream(toy)
    rows = [
        ok("a", [[1, 2], [3, np.nan]], ("hi", "you")),
        ClipRow("b", "absent", "no audio track", None),
        ClipRow("c", "error", "the file is empty", None),
    ]
    store.write_features(toy, "00000-0000", here, rows)
    table = store.read_features("toy", "00000-0000")
    assert table["clip_id"].to_pylist() == ["a", "b", "c"]
    assert table["status"].to_pylist() == ["ok", "absent", "error"]
    assert table["reason"].to_pylist() == [None, "no audio track", "the file is empty"]
    assert table["n_frames"].to_pylist() == [2, 0, 0]
    np.testing.assert_array_equal(table["values"][0].as_py(), [1, 2, 3, np.nan])
    assert table["times"].to_pylist() == [[0.0, 0.5], [], []]
    assert table["tokens"].to_pylist() == [["hi", "you"], None, None]
    about = json.loads(table.schema.metadata[b"rrnn"])
    assert about["shard"] == "00000-0000"
    assert about["stream"]["columns"] == ["left", "right"]
    assert about["stream"]["version"] == "1"
    assert about["stream"]["frame_shift"] == 0.5
    assert about["inputs_digest"]
    assert store.done("toy") == {"00000-0000"}


def test_other_arrow_tools_open_the_files(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), "folder")
    here = clips("a", "b")
    store.add_clips(here)
    store.write_features(Toy(), "00000-0000", here, [ok("a", [[1, 2], [3, 4]]), ClipRow("b", "absent", "none", None)])
    path = str(tmp_path / "features/toy/00000-0000.parquet")
    assert polars.read_parquet(path)["values"].to_list() == [[1, 2, 3, 4], []]
    query = f"select m.speaker, f.n_frames from '{path}' f join '{tmp_path}/manifest/*.parquet' m using (clip_id) order by 2"
    assert duckdb.sql(query).fetchall() == [("s", 0), ("s", 2)]


def test_values_of_a_shard_are_one_flat_array_read_without_a_copy(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), "folder")
    here = clips("a", "b")
    store.write_features(Toy(), "00000-0000", here, [ok("a", [[1, 2]]), ok("b", [[3, 4], [5, 6]])])
    lists = store.read_features("toy", "00000-0000")["values"].chunk(0)
    flat = lists.values.to_numpy(zero_copy_only=True)
    np.testing.assert_array_equal(flat, np.arange(1, 7, dtype=np.float32))
    np.testing.assert_array_equal(lists.offsets.to_numpy(zero_copy_only=True), [0, 2, 6])


@settings(max_examples=50, deadline=None)
@given(st.lists(hnp.arrays(np.float32, st.tuples(st.integers(0, 5), st.just(3))), min_size=1, max_size=6))
def test_every_ragged_batch_comes_back(arrays: list[np.ndarray]) -> None:
    rows = [ClipRow(str(i), "ok", None, Features(a, np.arange(len(a), dtype=np.float64))) for i, a in enumerate(arrays)]
    table = features_table(rows, 3)
    for array, values, n in zip(arrays, table["values"], table["n_frames"], strict=True):
        np.testing.assert_array_equal(np.array(values.as_py(), np.float32).reshape(n.as_py(), 3), array)


def test_a_stream_made_in_another_way_is_refused(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), "folder")
    store.begin_stream(Toy())
    store.begin_stream(Toy())
    with pytest.raises(ValueError, match=r"stream 'toy' .* made differently: config was .*1\.0.*, now .*2\.0"):
        store.begin_stream(Toy(scale=2.0))


def test_a_store_of_another_corpus_and_no_store_are_named(tmp_path: Path) -> None:
    Store.create(str(tmp_path / "s"), "folder")
    with pytest.raises(ValueError, match="is a store of corpus 'folder', not 'ravdess'"):
        Store.create(str(tmp_path / "s"), "ravdess")
    with pytest.raises(FileNotFoundError, match="no store at"):
        Store(str(tmp_path))


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path))
    folder.write("a.parquet", b"old")

    def no_rename(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", no_rename)
    with pytest.raises(StorageError, match=r"a\.parquet: No space left on device"):
        folder.write("a.parquet", b"new")
    monkeypatch.undo()
    assert folder.read("a.parquet") == b"old"
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_what_a_killed_writer_leaves_is_not_listed_and_is_swept(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    left, young = (tmp_path / f".00000-0000.parquet.tmp-{digit * 32}" for digit in "01")
    for path in (left, young):
        path.write_bytes(b"half")
    os.utime(left, (0, 0))
    (tmp_path / ".keep").write_bytes(b"")
    folder.write("00000-0001.parquet", b"x")
    assert folder.names(".parquet") == ["00000-0001.parquet"]
    assert folder.sweep() == 1
    assert sorted(os.listdir(tmp_path)) == sorted([young.name, ".keep", "00000-0001.parquet"])


def test_manifest_row_groups_are_shards(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), "folder", shard_size=3)
    store.add_clips(clips(*(f"{i:02d}" for i in range(8))))
    file = pq.ParquetFile(tmp_path / "manifest/part-00000.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [3, 3, 2]
