"""Arrays with times, written with NumPy, PyArrow and polars."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.extract import ExtractConfig, list_all, options_of, outcome_table, streams_of
from pipeline.clip import Clip
from pipeline.extract import extract_rows, extract_shard
from pipeline.store import ClipRow, Store
from pipeline.streams import arrays as module
from pipeline.streams import make_stream, remake_stream

TIMES = np.array([0.1, 0.3, 0.5])
VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


def extract(path: Path, **options: object) -> ClipRow:
    clip = Clip("c", "")
    stream = make_stream("array", {"files": str(path), "modality": "audio", **options})
    return extract_rows(stream.settled([clip]), [clip])[0]


def reason(path: Path) -> str:
    result = extract(path, columns=["a", "b", "c", "d"])
    assert result.status == "error", result
    return str(result.reason)


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_npz_with_and_without_names(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for arrays in (
        {"values": VALUES, "times": TIMES},
        {"features": VALUES.astype(np.float64), "timestamps": TIMES},
        {"values": np.asfortranarray(VALUES), "times": TIMES.astype(np.float32), "other": np.array([None])},
        {"values": VALUES.astype(np.float16), "times": TIMES, "columns": np.array(list("abcd"))},
        {"values": VALUES.astype(">i4"), "times": TIMES, "columns": ["left eye", "b", "c", "ä"]},
    ):
        result = extract(npz(path, **arrays))
        assert result.features is not None, result.reason
        assert np.array_equal(result.features.values, VALUES)
        assert result.features.times == pytest.approx(TIMES)
    np.savez_compressed(path, values=VALUES, times=TIMES)
    assert extract(path).status == "ok"
    clip = Clip("c", "")
    stream = make_stream("mine", {"files": str(path), "modality": "text"}, "array").settled([clip])
    assert stream.columns == ("mine_000", "mine_001", "mine_002", "mine_003")


def test_parquet_of_pyarrow_and_of_polars(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {"a": [1.0, None, 3.0], "b": [1, 2, 3], "c": [True, False, True]}
    expected = np.array([[1, 1, 1], [np.nan, 2, 0], [3, 3, 1]], np.float32)
    for name in ("time", "times", "timestamp", "timestamps"):
        results = [extract(parquet(path, **columns, **{name: TIMES}))]
        polars.DataFrame({name: TIMES, **columns}).write_parquet(path)
        results.append(extract(path))
        for result in results:
            assert result.features is not None, result.reason
            assert np.array_equal(result.features.values, expected, equal_nan=True)
            assert result.features.times == pytest.approx(TIMES)
    parquet(path, time=TIMES, a=TIMES, who=["x", "y", "z"], __index_level_0__=[0, 1, 2])
    assert "column who is string, expected numbers; the option columns names those" in reason_of_settling(path)
    assert extract(path, columns="a").status == "ok"


def reason_of_settling(path: Path) -> str:
    with pytest.raises(ValueError, match="no clip has a file that can be read") as e:
        extract(path)
    return str(e.value)


def test_the_first_file_fixes_the_columns_and_others_are_read_by_name(tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", values=VALUES, times=TIMES, columns=list("abcd"))
    npz(tmp_path / "b.npz", values=VALUES[:, ::-1], times=TIMES, columns=list("dcba"))
    parquet(tmp_path / "c.parquet", time=TIMES, extra=TIMES, **{n: VALUES[:, i] for i, n in enumerate("abcd")})
    npz(tmp_path / "d.npz", values=VALUES, times=TIMES)
    npz(tmp_path / "e.npz", values=VALUES[:, :3], times=TIMES)
    npz(tmp_path / "f.npz", values=VALUES[:, :3], times=TIMES, columns=list("abc"))
    files = ("a.npz", "b.npz", "c.parquet", "d.npz", "e.npz", "f.npz")
    clips = [Clip(f, "", features={"array": str(tmp_path / f)}) for f in files]
    stream = make_stream("array", {"modality": "audio"}).settled(clips)
    assert stream.columns == tuple("abcd")
    rows = extract_rows(stream, clips)
    for row in rows[:4]:
        assert row.features is not None, row.reason
        assert np.array_equal(row.features.values, VALUES), row.clip_id
    assert rows[4].reason == "e.npz has 3 columns, expected 4, as in the first clip's file"
    assert rows[5].reason == "f.npz has no column d: it has a, b, c, ..."


def test_pickles_are_refused_and_never_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (ran,))

    harm = np.array([[Harm()] * 4] * 3, dtype=object)
    for arrays in (
        {"values": harm, "times": TIMES},
        {"values": VALUES, "times": harm[:, 0]},
        {"values": VALUES, "times": TIMES, "columns": harm[0]},
        {"values": np.array([(1.0, None)] * 3, dtype=[("a", "f4"), ("b", "O")]), "times": TIMES},
    ):
        assert "are pickles and could run code when loaded: save it with its numbers as float32" in reason(
            npz(tmp_path / "a.npz", **arrays)
        )
    assert not ran.exists()


def test_arrays_of_wrong_kinds_and_shapes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    assert "has no values or features: it holds data, times" in reason(npz(path, data=VALUES, times=TIMES))
    assert "has no times or time or timestamps or timestamp" in reason(npz(path, values=VALUES))
    assert "found float32 (12,) and float64 (3,)" in reason(npz(path, values=VALUES.ravel(), times=TIMES))
    assert "found complex64 (3, 4)" in reason(npz(path, values=VALUES * np.complex64(1j), times=TIMES))
    assert "found <U4 (3, 4)" in reason(npz(path, values=VALUES.astype("U4"), times=TIMES))
    assert "datetime64" in reason(npz(path, values=VALUES, times=TIMES.astype("datetime64[s]")))
    assert "4 rows of values and 3 times, expected one time a row" in reason(npz(path, values=VALUES.T, times=TIMES))
    assert "columns is <U1 (3,), expected 4 strings" in reason(npz(path, values=VALUES, times=TIMES, columns=list("abc")))
    assert "the name of a column comes twice" in reason(npz(path, values=VALUES, times=TIMES, columns=list("abca")))
    assert "has 0 columns of features" in reason(npz(path, values=VALUES[:, :0], times=TIMES))
    assert "frame 2 has no time" in reason(npz(path, values=VALUES, times=np.array([0, np.nan, 1])))
    assert "no frame between the clip's start and end: it reaches to nothing" in reason(
        npz(path, values=VALUES[:0], times=TIMES[:0])
    )
    (tmp_path / "a.npy").write_bytes(b"x")
    assert "expected a .npz or .parquet file" in reason(tmp_path / "a.npy")

    path = tmp_path / "a.parquet"
    lists = pa.array([[1.0, 2.0]] * 3)
    assert "column a holds lists: expected a column of numbers for each feature" in reason(
        parquet(path, time=TIMES, a=lists, b=TIMES, c=TIMES, d=TIMES)
    )
    four = dict.fromkeys("abcd", TIMES)
    assert "no column times or time or timestamps or timestamp: it has a, b" in reason(parquet(path, **four))
    assert "column time is duration[us], expected numbers" in reason(
        parquet(path, **four, time=pa.array([1, 2, 3], pa.duration("us")))
    )
    assert "no column d: it has time, a, b, c" in reason(parquet(path, time=TIMES, a=TIMES, b=TIMES, c=TIMES))
    assert "frame 2 has no time" in reason(parquet(path, **four, time=[0.0, None, 1.0]))


def test_damaged_files_are_rows_and_never_crashes(tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", values=VALUES, times=TIMES, columns=list("abcd"))
    np.savez_compressed(tmp_path / "b.npz", values=VALUES, times=TIMES)
    parquet(tmp_path / "c.parquet", time=TIMES, **{n: VALUES[:, i] for i, n in enumerate("abcd")})
    for name in ("a.npz", "b.npz", "c.parquet"):
        whole = (tmp_path / name).read_bytes()
        path = tmp_path / ("damaged" + Path(name).suffix)
        path.write_bytes(whole[: len(whole) // 2])
        assert "can't be read as a" in reason(path)
        path.write_bytes(b"no such file" * 50)
        assert "can't be read as a" in reason(path)
        for seed in range(100):
            damaged, at = bytearray(whole), np.random.default_rng(seed)
            for place in at.integers(0, len(whole), 4):
                damaged[place] = at.integers(256)
            path.write_bytes(damaged)
            assert extract(path, columns=list("abcd")).status in ("ok", "error"), (name, seed)


def header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_bombs_are_refused_by_what_they_declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = io.BytesIO()
    np.save(times, TIMES)

    def packed(values: bytes) -> Path:
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("values.npy", values)
            archive.writestr("times.npy", times.getvalue())
        return tmp_path / "a.npz"

    assert "declares float32 of shape (1000000000000, 4), and holds 48 bytes" in reason(
        packed(header("(1000000000000, 4)") + VALUES.tobytes())
    )
    assert "of shape (-3, -4)" in reason(packed(header("(-3, -4)") + VALUES.tobytes()))
    assert "declares <U0" in reason(packed(header("(1000000000000,)", "<U0")))
    assert "is no array of NumPy" in reason(packed(header("__import__('os').getpid()") + VALUES.tobytes()))
    assert "is no array of NumPy" in reason(packed(b"\x93NUMPY" + b"(" * 5000))
    monkeypatch.setattr(module, "MAX_ARRAY_BYTES", 1 << 20)
    assert "values has 8388608 bytes, expected at most" in reason(packed(bytes(8 << 20)))
    n = 1_000_000
    path = parquet(tmp_path / "a.parquet", time=np.zeros(n), **dict.fromkeys("abcd", np.zeros(n, np.float32)))
    assert path.stat().st_size < 100_000
    assert "declares 1000000 rows of 4 columns, expected at most" in reason(path)


def test_modality_is_an_option_that_must_be_given() -> None:
    for options in ({}, {"modality": "smell"}):
        with pytest.raises(ValueError, match=r"modality is .*, expected audio, vision or text"):
            make_stream("array", options)
    stream = make_stream("clip", {"modality": "vision"}, "array")
    assert (stream.modality, stream.describe()["modality"], stream.frame_shift) == ("vision", "vision", None)
    list_all()  # which reads it off the class


def test_two_streams_of_one_importer_in_a_store(tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", values=VALUES, times=TIMES, columns=list("wxyz"))
    parquet(tmp_path / "a.parquet", time=TIMES, p=[1.0, 2.0, 3.0])
    set_ = ["wav2vec.modality=audio", "clip.modality=vision", f"clip.files={tmp_path}/{{clip_id}}.parquet"]
    _, options = options_of("folder", set_)
    assert options_of("folder", ["clip.files={folder}/{stem}.npz"])[1] == {"clip": {"files": "{folder}/{stem}.npz"}}
    config = ExtractConfig(str(tmp_path), "folder", "", streams=streams_of("folder", "", "wav2vec=array,clip=array", options))
    # By the stream's own name first, then by the importer's.
    clips = [
        Clip("a", "gone.mp4", features={"array": "/nowhere.npz", "wav2vec": f"{tmp_path}/a.npz"}),
        Clip("b", "gone.mp4", features={"array": f"{tmp_path}/a.npz"}, start=0.2, end=0.4),
        Clip("c", "gone.mp4"),
    ]
    extractors = [e.settled(clips) for e in config.extractors()]
    store = Store.create(str(tmp_path / "store"), "folder")
    store.add_clips(clips)
    for extractor in extractors:
        store.begin_stream(extractor)
        extract_shard(store, extractor, "00000-0000")
    about = store.streams()
    assert {name: (a["extractor"], a["modality"], a["columns"]) for name, a in about.items()} == {
        "clip": ("array", "vision", ["p"]),
        "wav2vec": ("array", "audio", list("wxyz")),
    }
    rows = store.read_features("wav2vec", "00000-0000").to_pylist()
    assert [(r["status"], r["n_frames"]) for r in rows] == [("ok", 3), ("ok", 1), ("absent", 0)]
    assert rows[1]["times"] == pytest.approx([0.1])
    assert "neither features.wav2vec or features.array in the manifest nor the option files" in rows[2]["reason"]
    assert [r["status"] for r in store.read_features("clip", "00000-0000").to_pylist()] == ["ok", "error", "error"]
    assert outcome_table(store).row_count == 2
    # As scoring makes it again, with its files elsewhere.
    again = remake_stream(about["clip"], {"files": f"{tmp_path}/a.parquet"})
    assert (again.name, again.modality, again.columns) == ("clip", "vision", ("p",))
    assert [r.status for r in extract_rows(again, clips)] == ["ok"] * 3
    for extractor in extractors:
        store.begin_stream(remake_stream(about[extractor.name]))  # the same stream


def test_columns_whose_names_are_no_text(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", times=[0.0, 1.0], longname=[1.0, 2.0])
    path.write_bytes(path.read_bytes().replace(b"longname", b"\xff" * 8))
    assert "can't be read as a .parquet file" in (extract(path, columns=("longname",)).reason or "")
