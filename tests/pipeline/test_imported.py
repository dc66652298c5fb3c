"""Importers: what they have in common. A toy importer stands for all; the formats have tests of their own."""

from __future__ import annotations

import csv
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from pipeline.clip import Clip, Modality
from pipeline.extract import extract_rows, extract_shard
from pipeline.store import ClipRow, Store
from pipeline.streams import STREAMS, make_stream, remake_stream, stream_class
from pipeline.streams import imported as module
from pipeline.streams.imported import Importer, Sequence2D, open_table, read_file


@dataclass(frozen=True)
class Toy(Importer):
    """CSV with the columns time, x and y."""

    name: ClassVar[str] = "toy"
    version: ClassVar[str] = "1"
    modality: ClassVar[Modality] = "vision"
    frame_shift: ClassVar[float | None] = None
    licence: ClassVar[str] = "none"
    suffixes: ClassVar[tuple[str, ...]] = (".csv",)

    @property
    def columns(self) -> tuple[str, ...]:
        return ("x", "y")

    def parse(self, data: bytes, path: str, deadline: Callable[[], None]) -> Sequence2D:
        table = open_table(data, path, lambda header: "time" in header, "a header with time")
        values, times, _ = table.read(deadline, [table.header.index(n) for n in self.columns], [table.header.index("time")])
        return Sequence2D(times[:, 0], values)


def row(path: Path | str, clip: Clip | None = None) -> ClipRow:
    return extract_rows(Toy(files=str(path)), [clip or Clip("c", "")])[0]


def reason(path: Path | str) -> str:
    result = row(path)
    assert result.status == "error"
    assert result.reason
    return result.reason


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(path: Path, times: list[float]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "x", "y"])
        writer.writerows([t, i, -i] for i, t in enumerate(times))
    return path


# ------------------------------------------------------------------------------------------------------ frames of a clip


def test_a_clip_has_the_frames_whose_middles_lie_in_it(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", [round(0.1 * i, 1) for i in range(10)])
    features = row(path, Clip("c", "", start=0.2, end=0.5)).features
    assert features is not None
    assert features.values.tolist() == [[2, -2], [3, -3], [4, -4]]  # 0.2 is in, 0.5 is not
    assert features.times == pytest.approx([0.0, 0.1, 0.2])
    for start, end, frames in ((None, None, 10), (0.0, 0.1, 1), (0.85, None, 1), (None, 0.05, 1), (0.15, 0.25, 1)):
        result = row(path, Clip("c", "", start=start, end=end))
        assert result.features is not None
        assert len(result.features.times) == frames, (start, end)


def test_clips_side_by_side_share_no_frame_and_lose_none(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", [i / 30 for i in range(300)])
    cuts = np.linspace(0, 10, 14)
    rows = extract_rows(Toy(files=str(path)), [Clip(str(a), "", start=a, end=b) for a, b in pairwise(cuts)])
    assert [r.status for r in rows] == ["ok"] * 13
    assert np.concatenate([r.features.values[:, 0] for r in rows if r.features]).tolist() == list(range(300))


def test_a_clip_outside_the_file_says_how_far_the_file_reaches(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", [0.0, 0.5, 1.0])
    result = row(path, Clip("c", "", start=2.0, end=3.0))
    assert (result.status, result.reason) == (
        "error",
        "a.csv has no frame between the clip's start and end: it reaches to 1.00 s",
    )


def test_swapped_and_equal_times_are_put_in_order_and_others_are_refused(tmp_path: Path) -> None:
    features = row(table(tmp_path / "a.csv", [0.0, 0.2, 0.1, 0.3, 0.3])).features
    assert features is not None
    assert features.times.tolist() == [0.0, 0.1, 0.2, 0.3, 0.3]
    assert features.values[:, 0].tolist() == [0, 2, 1, 3, 4]
    two_recordings = table(tmp_path / "b.csv", [0.0, 1.0, 2.0, 0.0, 1.0])
    assert "times go back after frame 3, 2.00 s, and then 0.00 s" in reason(two_recordings)
    assert "frame 2 has no time" in reason(write(tmp_path / "c.csv", "time,x,y\n0,1,2\n,1,2\n"))
    assert "frame 1 has no time" in reason(write(tmp_path / "d.csv", "time,x,y\ninf,1,2\n1,1,2\n"))


def test_what_is_not_finite_or_not_there_is_not_observed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "time,x,y\n0,inf,-inf\n1,nan,-nan(ind)\n2,,1e300\n3, ,NA\n4, -1.#IND, NaN\n5,1,2\n")
    features = row(path).features
    assert features is not None
    assert np.isnan(features.values[:5]).all()
    assert features.values[5].tolist() == [1, 2]


# -------------------------------------------------------------------------------------------------------- broken files


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    assert reason(tmp_path / "gone.csv") == f"no such file: {tmp_path}/gone.csv"
    assert reason(write(tmp_path / "empty.csv", "")).endswith("empty.csv is empty")
    pointer = write(tmp_path / "pointer.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git-lfs pointer" in reason(pointer)
    assert "not a file but a folder" in reason(tmp_path)
    os.mkfifo(tmp_path / "pipe.csv")
    assert "not a file but a folder" in reason(tmp_path / "pipe.csv")
    assert "not a file but a folder" in reason("/dev/zero")
    assert "can't read" in reason(tmp_path / "empty.csv" / "below.csv")
    assert "can't read" in reason(str(tmp_path) + "/a\0b.csv")
    for address in ("http://localhost/a.csv", "simplecache::s3://b/a.csv", "zip://a.csv::s3://b.zip", "ftp://h/a.csv"):
        assert "expected a path or one of" in reason(address)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path / "a.csv", [0.0, 1.0])
    with (tmp_path / "sparse.csv").open("wb") as file:
        file.truncate(1 << 40)
    assert "has 1099511627776 bytes, expected at most" in reason(tmp_path / "sparse.csv")
    monkeypatch.setattr(module, "MAX_FILE_BYTES", path.stat().st_size)
    assert row(path).status == "ok"
    monkeypatch.setattr(module, "MAX_FILE_BYTES", path.stat().st_size - 1)
    assert "expected at most" in reason(path)


def test_a_line_that_is_wrong_is_named(tmp_path: Path) -> None:
    def of(text: str | bytes) -> str:
        return reason(write(tmp_path / "a.csv", text))

    good = "time,x,y\n" + "".join(f"{i},1,2\n" for i in range(5000))
    assert "line 5002, column x: found 'abc', expected a number" in of(good + "5000,abc,2\n5001,1,2\n")
    assert "line 5002 has 2 fields, expected 3; is the end of the file cut off?" in of(good + "5000,1")
    assert "line 5002 has 4 fields, expected 3" in of(good + "5000,1,2,3\n")
    assert "line 4, column y" in of("time,x,y\n\n0,1,2\n1,2,1_0\n")  # blank lines count
    assert "expected a number with a point, not a comma" in of("time;x;y\n0;0,5;1\n")
    assert "line 2 has 6 fields, expected 3; a decimal comma? expected points" in of("time,x,y\n0,0,0,5,1,5\n")
    assert "has no line of numbers" in of("time,x,y\n")
    assert "expected a header with time, found '1,2,3'" in of("1,2,3\n1,2,3\n")
    assert "is binary, expected text" in of(bytes(range(256)) * 20)
    assert "UTF-16" in of("time,x,y\n0,1,2\n".encode("utf-16"))
    assert "expected a header" in of(b"\xff\xd8\xff\xe0 a picture without any zero byte")
    assert "expected at most 20000" in of("time,x,y" + ",z" * 30000 + "\n")


def test_text_is_read_however_it_was_saved(tmp_path: Path) -> None:
    plain = "time,x,y,who\n0,1,2,Jose\n0.5,3,4,Zoe\n"
    files = {
        "plain": plain.encode(),
        "bom": b"\xef\xbb\xbf" + plain.encode(),
        "crlf": plain.replace("\n", "\r\n").encode(),
        "mac": plain.replace("\n", "\r").encode(),
        "latin": plain.replace("Jose", "Jos\xe9").encode("latin-1"),
        "no end": plain.rstrip("\n").encode(),
        "spaces": plain.replace(",", " , ").encode(),
        "semicolons": plain.replace(",", ";").encode(),
        "tabs": plain.replace(",", "\t").replace("Zoe", '5" away').encode(),
        "quotes": plain.replace("Jose", '"Jose, the first"').replace("0.5,3", '"0.5","3"').encode(),
    }
    for name, content in files.items():
        result = row(write(tmp_path / "a.csv", content))
        assert result.features is not None, (name, result.reason)
        assert result.features.values.tolist() == [[1, 2], [3, 4]], name
        assert result.features.times.tolist() == [0, 0.5], name


def test_two_million_lines_are_read_in_seconds(tmp_path: Path) -> None:
    n = 2_000_000
    path = write(tmp_path / "a.csv", b"time,x,y\n" + b"1.25,0.123456,-3.5\n" * n)
    began = time.perf_counter()
    features = row(path).features
    assert time.perf_counter() - began < 8  # 0.4 s on a quiet machine; a loop over lines takes longer than 8
    assert features is not None
    assert features.values.shape == (n, 2)


def test_a_search_for_a_wrong_line_ends_with_the_time_of_the_clip(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"time,x,y\n" + b"1.25,0.123456,-3.5\n" * 1_000_000 + b"x,1,2\n")
    rows = extract_rows(Toy(files=str(path)), [Clip("c", "")], clip_seconds=0.3)
    assert (rows[0].status, rows[0].reason) == ("error", "timeout: took longer than 0.3 s")


# -------------------------------------------------------------------------------------------------------- where files are


def test_the_manifest_or_the_option_says_where_the_file_is(tmp_path: Path) -> None:
    table(tmp_path / "one.csv", [0.0])
    clip = Clip("c/1", f"{tmp_path}/one.mp4", speaker="s", attributes={"take": "one"})
    for files in ("{folder}/{stem}.csv", f"{tmp_path}/{{take}}.csv", f"{tmp_path}/one.csv"):
        assert extract_rows(Toy(files=files), [clip])[0].status == "ok", files
    named = replace(clip, features={"toy": f"{tmp_path}/one.csv", "other": "/nowhere.csv"})
    assert extract_rows(Toy(), [named])[0].status == "ok"
    assert extract_rows(Toy(), [clip])[0].status == "absent"
    assert extract_rows(Toy(), [replace(clip, features={"other": "/nowhere.csv"})])[0].status == "absent"
    wrong = extract_rows(Toy(files="{tkae}.csv"), [clip])[0]
    assert wrong.reason is not None
    assert "the clip has no 'tkae': expected one of clip_id, folder, speaker, stem, take" in wrong.reason


def test_a_relative_address_holds_in_a_worker_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path / "c.csv", [0.0])
    monkeypatch.chdir(tmp_path)
    settled = Toy(files="{clip_id}.csv").settled([Clip("c", "")])
    monkeypatch.chdir("/")
    assert extract_rows(settled, [Clip("c", "")])[0].status == "ok"
    assert settled.describe() == Toy().describe()  # where files are is no part of what a stream is
    for files in ("s3://b/{clip_id}.csv", "{folder}/{stem}.csv", "/a/b.csv", None):
        assert Toy(files=files).settled([]).files == files


def test_clips_of_one_recording_read_its_file_once_and_a_changed_file_anew(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", [0.0, 1.0, 2.0])
    toy = Toy(files=str(path))
    assert extract_rows(toy, [Clip("c", "", end=1.0)])[0].status == "ok"
    stamp = path.stat()
    path.write_text("garbage")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert extract_rows(toy, [Clip("d", "", start=1.0)])[0].status == "ok"  # as read before
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert extract_rows(toy, [Clip("e", "")])[0].status == "error"
    assert len(pickle.dumps(toy)) < 1000  # what is kept does not travel
    assert pickle.loads(pickle.dumps(toy)) == toy


def test_a_recording_need_not_be_there(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", [0.0, 1.0])
    store = Store.create(str(tmp_path / "store"), "folder")
    store.add_clips([Clip("c", f"{tmp_path}/gone.mp4", features={"toy": str(path)}), Clip("d", "", start=3.0, end=2.0)])
    store.begin_stream(Toy())
    report = extract_shard(store, Toy(), "00000-0000")
    assert (report.ok, report.error, report.frames) == (1, 1, 2)
    assert read_file(str(path)) == path.read_bytes()


def test_every_importer_describes_itself_and_is_made_again_from_that() -> None:
    importers = [n for n in STREAMS if issubclass(stream_class(n), Importer)]
    assert importers == ["openface", "facet", "covarep", "opensmile", "array", "glove"]
    for name in importers:
        stream = make_stream(name, {"modality": "vision", "columns": ["a", "b"]} if name == "array" else None)
        assert remake_stream(stream.describe()) == stream
        assert remake_stream(stream.describe(), {"files": "/x"}) == stream.changed(files="/x")
        assert stream.licence
        assert not stream.reads_recording
