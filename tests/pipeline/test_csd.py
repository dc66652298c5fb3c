from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
from csd_files import frames, write_csd
from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import csd
from pipeline.clip import Absent, Clip, ClipError, Word
from pipeline.csd import CsdError, CsdFile, cut, read_segment
from pipeline.extract import extract_rows
from pipeline.media import Deadline, no_media
from pipeline.streams import make_stream
from pipeline.streams.glove import Glove


def test_a_frame_belongs_to_every_segment_that_it_overlaps_and_is_clipped_to_it(tmp_path: Path) -> None:
    path = write_csd(tmp_path / "x.csd", "COVAREP", {"-v": frames(10, 1.0, 3)})  # frame i lasts from i to i + 1
    times, values, tokens = read_segment(path, "-v", 2.5, 5.0)
    assert values[:, 0].tolist() == [2, 3, 4]  # 5 only touches the end
    assert times.tolist() == [2.75, 3.5, 4.5]  # of frame 2 the part from 2.5 to 3 is inside
    assert (values.dtype, times.dtype, tokens) == (np.float32, np.float64, None)
    assert read_segment(path, "-v", 3.0, 3.25)[0].tolist() == [3.125]  # shorter than a frame
    assert read_segment(path, "-v", 8.0, None)[1][:, 0].tolist() == [8, 9]
    assert read_segment(path, "-v", -3.0, 1.0)[0].tolist() == [0.5]  # begins before the video
    assert read_segment(path, "-v", 9.5, 99.0)[0].tolist() == [9.75]  # runs past its end
    assert read_segment(path, "-v", 40.0, 50.0)[1].shape == (0, 3)


def test_what_remains_of_a_frame_must_last_longer_than_the_tolerance() -> None:
    intervals = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    for start, end, rows in [
        (1.0 - 0.9e-5, 2.0 + 0.9e-5, [1]),
        (1.0 - 1.1e-5, 2.0 + 1.1e-5, [0, 1, 2]),
        (1.0 + 0.9e-5, 2.0 - 0.9e-5, [1]),
        (1.5, 1.5 + 0.9e-5, []),
        (1.5, 1.5 + 1.1e-5, [1]),
    ]:
        assert cut(intervals, start, end)[0].tolist() == rows


def reference(intervals: list[tuple[float, float]], start: float, end: float) -> list[tuple[int, float, float]]:
    """The published rule, a frame at a time: both distances above -1e-5, clipped, and longer than 1e-5 after that."""
    found = []
    for i in sorted(range(len(intervals)), key=lambda i: intervals[i][0]):
        begin, stop = intervals[i]
        if end - begin > -10e-6 and stop - start > -10e-6:
            inside = max(begin, start), min(stop, end)
            if abs(inside[0] - inside[1]) > 10e-6:
                found.append((i, *inside))
    return found


# In steps of a quarter of the tolerance, so that borders are hit, and far from it.
moments = st.one_of(st.integers(-12, 12).map(lambda k: k * 2.5e-6), st.integers(-4, 12).map(lambda k: k / 4), st.floats(-2, 20))


@settings(max_examples=300, deadline=None)
@given(intervals=st.lists(st.tuples(moments, moments), max_size=12), start=moments, end=moments)
def test_segments_are_cut_as_the_reference_reader_does(intervals: list[tuple[float, float]], start: float, end: float) -> None:
    rows, inside = cut(np.array(intervals).reshape(-1, 2), start, end)
    ours = [(int(i), *map(float, part)) for i, part in zip(rows, inside, strict=True)]
    theirs = reference(intervals, start, end)
    # On the border itself the last bit of a subtraction may decide otherwise: neither reading is wrong there.
    border = {
        i
        for i, (begin, stop) in enumerate(intervals)
        for gap in (end - begin, stop - start, abs(max(begin, start) - min(stop, end)))
        if abs(abs(gap) - 10e-6) < 1e-12
    }
    assert sorted(f for f in ours if f[0] not in border) == sorted(f for f in theirs if f[0] not in border)
    assert np.all(np.diff(inside.mean(axis=1)) >= 0)


def test_values_that_are_no_numbers_are_missing_and_frames_out_of_order_are_sorted(tmp_path: Path) -> None:
    intervals = np.array([[2.0, 3.0], [0.0, 1.0], [1.0, 2.0], [np.nan, 9.0]])
    features = np.array([[2.0, np.nan], [0.0, np.inf], [1.0, -np.inf], [3.0, 0.0]])
    path = write_csd(tmp_path / "x.csd", "FACET 4.2", {"1234": (intervals, features)})
    times, values, _ = read_segment(path, "1234", 0.0, None)
    assert times.tolist() == [0.5, 1.5, 2.5]
    assert values[:, 0].tolist() == [0, 1, 2]
    assert np.isnan(values[:, 1]).all()
    beyond_float32 = write_csd(tmp_path / "big.csd", "x", {"v": ([[0, 1]], [[1e300]])})
    assert np.isnan(read_segment(beyond_float32, "v", 0, 1)[1]).tolist() == [[True]]


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i4", ">f8"])
@pytest.mark.parametrize("how", [{}, {"compression": "gzip"}, {"chunks": True}])
def test_every_number_type_and_storage_gives_the_same(tmp_path: Path, dtype: str, how: dict[str, Any]) -> None:
    intervals, features = frames(300, 30.0, 5)
    features = (features * 100).astype(dtype)
    path = write_csd(tmp_path / "x.csd", "OpenFace_2", {"v": (intervals, features)}, **how)
    assert np.array_equal(read_segment(path, "v", 2.0, 4.0)[1], features[60:120].astype(np.float32))


def test_only_the_first_root_group_counts_and_metadata_is_json(tmp_path: Path) -> None:
    fused = "dimension namescomputational sequence version"  # a bug of the published writer
    path = write_csd(tmp_path / "x.csd", "All Labels", {"v": frames(3, 1, 7)}, {fused: ["a", "b"], "md5": None})
    with h5py.File(path, "a") as file:
        file.create_group("words/data/other")
        about = file["All Labels/metadata"]
        about["broken"] = np.array([b"{"])
        about["deep"] = np.array([b"[" * 100_000])
        about["number"] = 3.0
    with CsdFile(path) as sequence:
        assert (sequence.name, sequence.videos()) == ("All Labels", ["v"])
        assert sequence.metadata(fused) == ["a", "b"]
        assert [sequence.metadata(k) for k in ("md5", "broken", "deep", "number", "none", "../data")] == [None] * 6


def break_file(path: Path, what: str) -> None:
    with h5py.File(path, "a") as file:
        video = file["COVAREP/data/v"]
        if what == "no features":
            del video["features"]
        elif what == "no data":
            del file["COVAREP/data"]
        elif what == "root is a dataset":
            del file["COVAREP"]
            file["COVAREP"] = 1.0
        elif what == "nothing":
            del file["COVAREP"]
        elif what == "video is a dataset":
            del file["COVAREP/data/v"]
            file["COVAREP/data/v"] = 1.0
        else:
            name = "intervals" if what.startswith("intervals") else "features"
            del video[name]
            if what == "features of another length":
                video[name] = np.zeros((9, 3))
            elif what == "features flat":
                video[name] = np.zeros(10)
            elif what == "features of objects":
                video[name] = np.array([[b"a"]] * 10, dtype=h5py.special_dtype(vlen=bytes))
            elif what == "features are text":
                video[name] = np.array([[b"abc"]] * 10)
            elif what == "features compound":
                video[name] = np.zeros((10, 3), dtype=[("a", "f4")])
            elif what == "features scalar":
                video[name] = 1.0
            elif what == "features empty":
                video[name] = h5py.Empty("f4")
            elif what == "intervals of three columns":
                video[name] = np.zeros((10, 3))
            elif what == "intervals text":
                video[name] = np.array([[b"0", b"1"]] * 10)
            else:
                raise ValueError(what)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no features", "expected the datasets intervals and features, found 'intervals'"),
        ("no data", "no group COVAREP/data"),
        ("root is a dataset", "'COVAREP' is no group"),
        ("nothing", "is empty, expected a group"),
        ("video is a dataset", "there is no such video"),
        ("features of another length", "10 intervals and 9 features"),
        ("features flat", r"features float64 \(10,\); expected numbers \(n, d\)"),
        ("features of objects", "features object .* expected numbers"),
        ("features are text", r"features \|S3 .* expected numbers"),
        ("features compound", "expected numbers"),
        ("features scalar", r"features float64 \(\); expected numbers"),
        ("features empty", "expected numbers"),
        ("intervals of three columns", r"intervals are float64 \(10, 3\)"),
        ("intervals text", r"intervals are \|S1 .* expected numbers \(n, 2\)"),
    ],
)
def test_what_is_wrong_with_a_video_is_said(tmp_path: Path, what: str, message: str) -> None:
    path = write_csd(tmp_path / "x.csd", "COVAREP", {"v": frames(10, 1, 3), "whole": frames(10, 1, 3)})
    break_file(Path(path), what)
    with pytest.raises(ClipError, match=message):
        read_segment(path, "v", 0.0, 5.0)
    if what not in ("no data", "root is a dataset", "nothing"):
        assert len(read_segment(path, "whole", 0.0, 5.0)[0]) == 5


def test_files_that_are_no_sequences_are_clip_errors(tmp_path: Path) -> None:
    whole = Path(write_csd(tmp_path / "x.csd", "COVAREP", {"v": frames(500, 1, 3)})).read_bytes()
    broken = tmp_path / "y.csd"
    for content in (b"", b"frame, timestamp\n1, 2\n", b"version https://git-lfs.github.com/spec/v1\n"):
        broken.write_bytes(content)
        with pytest.raises(ClipError, match=r"y\.csd: can't be read as HDF5"):
            read_segment(str(broken), "v", 0.0, 1.0)
    for length in range(0, len(whole), len(whole) // 60):
        broken.write_bytes(whole[:length])
        with pytest.raises(ClipError, match=r"y\.csd"):
            read_segment(str(broken), "v", 0.0, 1.0)
    with pytest.raises(ClipError, match="no such file"):
        read_segment(str(tmp_path / "none.csd"), "v", 0.0, 1.0)
    for video in ("other", "", ".", "../metadata", "v/features", "a\0b"):
        with pytest.raises(ClipError, match="there is no such video"):
            read_segment(str(tmp_path / "x.csd"), video, 0.0, 1.0)


def test_no_link_is_followed_and_no_other_file_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.arange(30, dtype="f8").tobytes())
    other = write_csd(tmp_path / "other.csd", "COVAREP", {"v": frames(10, 1, 3)})
    path = write_csd(tmp_path / "x.csd", "COVAREP", {"v": frames(10, 1, 3)})
    intervals = np.column_stack([np.arange(10.0), np.arange(1.0, 11)])
    with h5py.File(path, "a") as file:
        data = file["COVAREP/data"]
        data["external link"] = h5py.ExternalLink(other, "/COVAREP/data/v")
        data["soft link"] = h5py.SoftLink("/COVAREP/data/v")
        for name in ("external file", "virtual", "linked features"):
            data.create_group(name)["intervals"] = intervals
        data["external file"].create_dataset("features", (10, 3), "f8", external=[(str(secret), 0, 240)])
        layout = h5py.VirtualLayout((10, 3), "f8")
        layout[:] = h5py.VirtualSource(other, "COVAREP/data/v/features", (10, 3))
        data["virtual"].create_virtual_dataset("features", layout)
        data["linked features"]["features"] = h5py.ExternalLink(other, "/COVAREP/data/v/features")
        assert data["virtual"]["features"][3, 0] == 3  # h5py itself would read them
        assert data["external file"]["features"][3, 0] == 9
    for video in ("external link", "soft link", "linked features"):
        with pytest.raises(ClipError, match="is a link to somewhere else"):
            read_segment(path, video, 0.0, 5.0)
    for video in ("external file", "virtual"):
        with pytest.raises(ClipError, match="its values are in other files"):
            read_segment(path, video, 0.0, 5.0)
    root = tmp_path / "root.csd"
    with h5py.File(root, "w") as file:
        file["COVAREP"] = h5py.ExternalLink(other, "/COVAREP")
    with pytest.raises(ClipError, match="'COVAREP' is a link to somewhere else"):
        read_segment(str(root), "v", 0.0, 5.0)


def test_what_a_file_claims_to_hold_is_checked_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.csd"
    packed = {"compression": "gzip", "fillvalue": 0}
    with h5py.File(path, "w") as file:
        for name, rows, chunk in [
            ("long", 10**10, 10**4),
            ("wide", 10**4, 10**4),
            ("chunk", 10**4, 10**4),
            ("many", 10**6, 10),
        ]:
            video = file.create_group(f"COVAREP/data/{name}")
            columns = {"wide": 10**5, "chunk": 10**5, "many": 10**3}.get(name, 1)
            width = {"chunk": 10**4}.get(name, 1)
            video.create_dataset("features", (rows, columns), "f8", chunks=(chunk, width), **packed)
            video.create_dataset("intervals", (rows, 2), "f8", chunks=(10**4, 2), **packed)
            if name != "long":
                video["intervals"][:] = np.column_stack([np.arange(rows), np.arange(rows) + 1.0])
    assert path.stat().st_size < 20_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, message in [
        ("long", "claims 10000000000 frames"),
        ("wide", "10000 rows would take 8000000000 bytes"),
        ("chunk", "is in pieces of 800000000 bytes"),
        ("many", "1000000 rows would take 8000000000 bytes"),
    ]:
        with pytest.raises(ClipError, match=message):
            read_segment(str(path), name, 0.0, None)
    assert len(read_segment(str(path), "many", 10.0, 15.0)[0]) == 5  # a clip of it is fine
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


class CountingFile(AbstractBufferedFile):
    """A file in a bucket: what is fetched of it is counted."""

    fetched = 0

    def _fetch_range(self, start: int, end: int) -> bytes:
        CountingFile.fetched += end - start
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(end - start)


class CountingFileSystem(AbstractFileSystem):
    protocol = "counting"

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": os.path.getsize(path), "type": "file"}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> CountingFile:
        return CountingFile(self, path, mode, **options)


def test_a_clip_of_a_long_video_in_a_bucket_fetches_what_it_needs(tmp_path: Path) -> None:
    fsspec.register_implementation("counting", CountingFileSystem, clobber=True)
    path = write_csd(tmp_path / "x.csd", "OpenFace_2", {"long": frames(60_000, 30.0, 100), "v": frames(10, 30, 100)})
    assert Path(path).stat().st_size > 48_000_000
    url = f"counting://{path}"
    for start, blocks in [(300.0, 5), (310.0, 2), (320.0, 2)]:  # of 1 MiB; the first also fetches names and intervals
        CountingFile.fetched = 0
        found = read_segment(url, "long", start, start + 10)
        assert CountingFile.fetched <= blocks << 20
        expected = read_segment(path, "long", start, start + 10)
        assert all(np.array_equal(a, b) for a, b in zip(found[:2], expected[:2], strict=True))


def test_few_files_stay_open_and_a_replaced_one_is_read_anew(tmp_path: Path) -> None:
    for i in range(12):
        path = write_csd(tmp_path / f"{i}.csd", "COVAREP", {"v": ([[0, 1]], [[float(i)]])})
        assert read_segment(path, "v", 0, 1)[1].tolist() == [[i]]
    fds = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
    assert sum(str(tmp_path) in target for target in fds) <= csd.MAX_OPEN
    shutil.move(write_csd(tmp_path / "new.csd", "COVAREP", {"v": ([[0, 1]], [[99.0]])}), tmp_path / "11.csd")
    assert read_segment(path, "v", 0, 1)[1].tolist() == [[99]]


def test_names_that_are_not_utf_8_do_no_harm(tmp_path: Path) -> None:
    path = Path(write_csd(tmp_path / "x.csd", "COVAREP", {"v": frames(10, 1, 3), "vvvv": frames(10, 1, 3)}))
    path.write_bytes(path.read_bytes().replace(b"vvvv", b"v\xff\xfev"))
    with CsdFile(str(path)) as sequence:
        plain, odd = sequence.videos()
        assert (plain, odd.encode(errors="surrogateescape")) == ("v", b"v\xff\xfev")
        assert len(sequence.segment(odd, 0, 5)[0]) == 5
    path.write_bytes(path.read_bytes().replace(b"COVAREP", b"COVA\xffEP"))
    with CsdFile(str(path)) as sequence:
        assert sequence.videos() == [plain, odd]


def test_words_are_text(tmp_path: Path) -> None:
    times = [[0, 1], [1, 2], [2, 3]]
    fixed = np.array([[b"so"], [b"sp"], ["caf\xe9".encode()]])
    loose = np.array([["so"], ["sp"], ["caf\xe9"]], dtype=h5py.special_dtype(vlen=str))
    for features in (fixed, loose):
        path = write_csd(tmp_path / "w.csd", "words", {"v": (times, features)})
        with CsdFile(path) as sequence:
            assert sequence.words("v")[1] == ["so", "sp", "caf\xe9"]
            with pytest.raises(CsdError, match="expected numbers"):
                sequence.rows("v")


WORD_TIMES = np.array([[0.2, 0.5], [0.5, 1.0], [1.4, 1.9], [2.0, 2.4]])


def glove_clip(tmp_path: Path, start: float, end: float, columns: int = 300, words: tuple[Word, ...] | None = None) -> Clip:
    vectors = np.arange(4)[:, None] + np.zeros((4, columns))
    path = write_csd(tmp_path / "g.csd", "glove_vectors", {"v": (WORD_TIMES, vectors)})
    return Clip("v[0]", "l.csd#v", start=start, end=end, words=words, features={"glove": f"{path}#v"})


def test_glove_gives_a_frame_a_word_and_the_words_where_they_are_known(tmp_path: Path) -> None:
    said = (Word("one", 0.1, 0.6), Word("two", 1.0, 1.5))
    (row,) = extract_rows(make_stream("glove"), [glove_clip(tmp_path, 0.4, 2.0, words=said)])
    assert (row.status, row.features is not None) == ("ok", True)
    assert row.features is not None
    assert row.features.values[:, 0].tolist() == [0, 1, 2]
    assert np.allclose(row.features.times, [0.05, 0.35, 1.25])
    assert row.features.tokens is not None
    assert row.features.tokens[0] == "sp"  # the frame at 0.05 s has no word
    (row,) = extract_rows(make_stream("glove"), [glove_clip(tmp_path, 0.4, 2.0, words=(Word("so", 0, 0.1), *said))])
    assert row.features is not None
    assert row.features.tokens == ("so", "one", "two")


def test_glove_says_what_it_can_not_use(tmp_path: Path) -> None:
    rows = extract_rows(
        make_stream("glove"),
        [
            glove_clip(tmp_path, 5.0, 6.0),
            Clip("x", "l.csd#v"),
            Clip("y", "l.csd#v", features={"glove": "vectors.csv"}),
        ],
    )
    assert [r.status for r in rows[:2]] == ["absent", "absent"]
    assert rows[0].reason == "no words between the clip's start and end"
    assert rows[2].status == "error"
    (row,) = extract_rows(make_stream("glove"), [glove_clip(tmp_path, 0.0, 1.0, columns=50)])
    assert (row.status, row.reason) == ("error", "g.csd, video 'v' has 50 columns, expected 300 of glove_vectors")
    with no_media(Clip("x", "l.csd#v"), Deadline()) as media, pytest.raises(Absent):
        Glove().extract(Clip("x", "l.csd#v"), media)
