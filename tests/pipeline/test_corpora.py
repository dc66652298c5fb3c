from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sources import touch

import pipeline.corpora.folder
from pipeline.clip import Clip, Word
from pipeline.corpora import open_corpus
from pipeline.corpora.base import Problem
from pipeline.corpora.checking import strangers
from pipeline.corpora.folder import FolderCorpus
from pipeline.corpora.listing import files_in


def read_folder(source: str) -> list[Clip]:
    problems: list[Problem] = []
    clips = list(FolderCorpus().clips(source, problems.append))
    assert not problems
    return clips


def test_folder_without_manifest_lists_media_in_order_through_links(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    touch(clips, "b.wav", "a/x.MP4", "a/readme.txt", ".hidden.wav", ".git/y.wav")
    touch(tmp_path / "elsewhere", "z.flv")
    (clips / "linked").symlink_to(tmp_path / "elsewhere")
    (clips / "a" / "loop").symlink_to(clips)
    found = read_folder(str(clips))
    assert [c.clip_id for c in found] == ["a/x.MP4", "b.wav", "linked/z.flv"]
    assert found[1].uri == str(clips / "b.wav")
    assert all(c.emotion is None and c.speaker is None for c in found)


def test_a_name_that_no_table_could_hold_is_reported_and_reading_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    with open(os.fsencode(tmp_path) + b"/b\xff.wav", "wb"):
        pass
    told: list[Problem] = []
    assert [c.clip_id for c in FolderCorpus().clips(str(tmp_path), told.append)] == ["a.wav"]
    assert [(p.kind, p.where) for p in told] == [("broken", r"b\xff.wav")]
    assert list(strangers(FolderCorpus(), str(tmp_path), [], told)) == [
        Problem("unexpected", "a.wav", "a media file that is no clip of this corpus")
    ]
    assert list(strangers(FolderCorpus(), str(tmp_path), [], []))[1:] == told


def test_one_file_is_a_source(tmp_path: Path) -> None:
    touch(tmp_path, "one clip.mp4")
    (clip,) = read_folder(str(tmp_path / "one clip.mp4"))
    assert (clip.clip_id, clip.uri) == ("one clip.mp4", str(tmp_path / "one clip.mp4"))


CSV = """clip_id,path,start,end,speaker,emotion,transcript,words,intensity.joy,mood
a,rec.wav,0.5,2.25,S1,happy,"Hello, you","[[""hello"", 0.1, 0.4], [""you"", 0.4, 0.6]]",2.5,sunny
,rec.wav,3,,S1,,,,,
c,/abs/other.wav,,,S2,sad,,,0,
"""


def test_csv_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("\ufeff" + CSV)  # spreadsheets write a byte order mark
    a, b, c = read_folder(str(tmp_path))
    assert (a.clip_id, a.uri, a.start, a.end) == ("a", str(tmp_path / "rec.wav"), 0.5, 2.25)
    assert a.words == (Word("hello", 0.1, 0.4), Word("you", 0.4, 0.6))
    assert (a.transcript, a.emotion, a.intensities, a.attributes) == ("Hello, you", "happy", {"joy": 2.5}, {"mood": "sunny"})
    assert (b.clip_id, b.end, b.emotion, b.intensities, b.words) == ("rec.wav@3", None, None, None, None)
    assert (c.uri, c.intensities) == ("/abs/other.wav", {"joy": 0.0})


def test_jsonl_manifest_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(CSV)
    from_csv = read_folder(str(tmp_path))
    rows = [
        {
            "clip_id": "a",
            "path": "rec.wav",
            "start": 0.5,
            "end": 2.25,
            "speaker": "S1",
            "emotion": "happy",
            "transcript": "Hello, you",
            "words": [["hello", 0.1, 0.4], ["you", 0.4, 0.6]],
            "intensity.joy": 2.5,
            "mood": "sunny",
        },
        {"path": "rec.wav", "start": 3, "speaker": "S1"},
        {"clip_id": "c", "path": "/abs/other.wav", "speaker": "S2", "emotion": "sad", "intensity.joy": 0},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(r) for r in rows) + "\n\n")
    assert list(read_folder(str(tmp_path / "list.jsonl"))) == from_csv


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,speaker\n,anna\n", r"line 2: path is empty"),
        ("path,speaker\n", r"manifest\.csv has no row"),
        ("file,speaker\na.wav,1\n", r"expected a column 'path', found file, speaker"),
        ("path,start\na.wav,soon\n", r"manifest\.csv, line 2: start is 'soon', expected a number"),
        ("path,start\na.wav,nan\n", r"line 2: start is 'nan', expected a number"),
        ("path,start,end\na.wav,3,2\n", r"line 2: end is 2 s, expected more than the start, 3 s"),
        ("path,start\na.wav,-1\n", r"line 2: start is -1 s, expected 0 or more"),
        ("path\na.wav,b\n", r"line 2: more values than the header has columns"),
        ("path,words\na.wav,hello\n", r"line 2: words: not JSON"),
        ('path,words\na.wav,"[[1, 2]]"\n', r"line 2: words: found '\[1, 2\]', expected \[\[word, start, end\]"),
        ('path,words\na.wav,"[[""x"", 2, 1]]"\n', r"line 2: words: the word 'x' runs from 2 to 1 s"),
        ("path,words\na.wav," + "[" * 100_000 + "\n", r"line 2: words: not JSON"),
        ("path,start\na.wav,0\n\nb.wav,x\n", r"line 4: start is 'x'"),
        ('path,transcript\na.wav,"a\nb"\nb.wav,"open\nc.wav,d\n', r"line 4: not CSV .* a quote that is not closed"),
        ("path,speaker,path\na.wav,b,c\n", r"the column 'path' comes twice"),
        ("path,Emotion\na.wav,b\n", r"manifest\.csv: a column 'Emotion': expected 'emotion', or another name"),
        ("path,Intensity.Joy\na.wav,1\n", r"a column 'Intensity\.Joy': expected 'intensity\.Joy', or another name"),
        ("path,\na.wav,b\n", r"line 2: the column of 'b' has no name"),
        ("path,intensity.\na.wav,1\n", r"manifest\.csv: the column 'intensity\.' names nothing"),
        ("path;start\na.wav;2,5\n", r"line 2: start is '2,5', expected a number with a decimal point"),
        ("path,shares.a,shares.b\na.wav,-1,2\n", r"line 2: shares\.a is -1, expected 0 or more"),
        ("path,shares.a,shares.b\na.wav,0,0\n", r"line 2: the shares shares\.a, shares\.b have the sum 0"),
        ("path,shares.a\na.wav,most\n", r"line 2: shares\.a is 'most', expected a number"),
        ("path,intensity.joy\na.wav,strong\n", r"line 2: intensity\.joy is 'strong', expected a number"),
        ("path,transcript_file\na.wav,a.docx\n", r"line 2: transcript_file is 'a\.docx', expected one of \.textgrid"),
        ("path,transcript_file,transcript\na.wav,a.srt,hello\n", r"line 2: both transcript and transcript_file"),
    ],
)
def test_a_wrong_manifest_is_an_error_that_names_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_folder(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"path": 5}\n', r"line 1: path is 5, expected text"),
        ('\n{"path": "a.wav", "start": true}\n', r"line 2: start is 'True', expected a number"),
        ('{"path": "a.wav", "start": 1e999}\n', r"line 1: start is 'inf', expected a number"),
        ('{"path": "a.wav", "emotion": ["sad"]}\n', r"line 1: emotion is .*, expected text"),
        ('{"path": "a.wav", "emotion": "\\ud800"}\n', r"line 1: .*surrogates"),
        ('{"path": "a.wav"\n', r"line 1: not JSON"),
        ("[" * 100_000 + "\n", r"line 1: not JSON"),
        ('["a.wav"]\n', r"line 1: expected an object with 'path'"),
        ('{"path": "a.wav", "features.": "a.csv"}\n', r"line 1: the column 'features\.' names nothing"),
    ],
)
def test_a_wrong_jsonl_is_an_error_that_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_folder(str(tmp_path))


def test_parquet_by_pandas_says_the_same_as_csv(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(CSV)
    from_csv = read_folder(str(tmp_path))
    pd.read_csv(tmp_path / "manifest.csv").to_parquet(tmp_path / "list.parquet")
    assert read_folder(str(tmp_path / "list.parquet")) == from_csv
    (tmp_path / "manifest.csv").unlink()
    (tmp_path / "list.parquet").rename(tmp_path / "manifest.parquet")
    assert read_folder(str(tmp_path)) == from_csv


def test_parquet_words_may_be_structs_and_what_is_no_text_is_left_out_and_reported(tmp_path: Path) -> None:
    rows = [{"path": "a.wav", "words": [{"text": "hi", "start": 0.0, "end": 1.5}], "audio": {"bytes": b"x"}, "raw": b"y"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "manifest.parquet")
    problems: list[Problem] = []
    (clip,) = FolderCorpus().clips(str(tmp_path), problems.append)
    assert (clip.words, clip.attributes) == ((Word("hi", 0.0, 1.5),), {})
    assert [p.kind for p in problems] == ["note", "note"]
    assert ["audio is of type struct" in problems[0].what, "raw is of type binary" in problems[1].what] == [True, True]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"path": "a.wav"}, {"path": "b.wav", "start": "soon"}], r"manifest\.parquet, row 2: start is 'soon'"),
        ([{"path": "a.wav"}, {"path": None}], r"row 2: path is empty"),
        ([{"file": "a.wav"}], r"expected a column 'path', found file"),
        ([{"path": 3}], r"row 1: path is 3, expected text"),
        ([{"path": "a.wav", "words": [1, 2]}], r"row 1: words: found '1'"),
    ],
)
def test_a_wrong_parquet_is_an_error_that_names_the_row(tmp_path: Path, rows: list[dict], message: str) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    pq.write_table(table, tmp_path / "manifest.parquet")
    with pytest.raises(ValueError, match=message):
        read_folder(str(tmp_path))


def test_a_broken_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    pq.write_table(pa.table({"path": [f"{i}.wav" for i in range(5000)]}), path)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[4:2000] = bytes(1996)
    for data in (b"", b"path\na.wav\n", whole[: len(whole) // 2], bytes(damaged)):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"manifest\.parquet, after row 0: can't be read as Parquet"):
            read_folder(str(tmp_path))


def test_spreadsheets_of_other_countries_and_encodings_say_the_same(tmp_path: Path) -> None:
    text = "path,start,speaker\ncafé.wav,2.5,Zoë\n"
    (tmp_path / "a.csv").write_text(text)
    expected = read_folder(str(tmp_path / "a.csv"))
    assert (expected[0].start, expected[0].speaker) == (2.5, "Zoë")
    tabs = text.replace(",", "\t")
    (tmp_path / "excel_unicode_text.csv").write_bytes(tabs.replace("\n", "\r\n").encode("utf-16"))
    (tmp_path / "big_endian.csv").write_bytes(b"\xfe\xff" + text.encode("utf-16-be"))
    (tmp_path / "tabs.tsv").write_text(tabs)
    (tmp_path / "semicolons.csv").write_text("\ufeff" + text.replace(",", ";"))
    (tmp_path / "declared.csv").write_bytes(("sep=|\n" + text.replace(",", "|")).replace("\n", "\r\n").encode())
    (tmp_path / "old_mac.csv").write_bytes(text.replace("\n", "\r").encode())
    (tmp_path / "empty_rows_and_columns.csv").write_text("path, start,speaker,,\n,,,,\ncafé.wav,2.5,Zoë,,\n,,,,\n")
    others = sorted(path.name for path in tmp_path.iterdir() if path.name != "a.csv")
    assert len(others) == 7
    for name in others:
        assert read_folder(str(tmp_path / name)) == expected, name
    (tmp_path / "late.csv").write_text("sep=;\npath;start\na.wav;soon\n")
    with pytest.raises(ValueError, match=r"late\.csv, line 3: start is 'soon'"):
        read_folder(str(tmp_path / "late.csv"))
    (tmp_path / "latin.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.csv, after line 0: can't be read .*0xe9.*expected UTF-8"):
        read_folder(str(tmp_path / "latin.csv"))


def test_features_are_addresses_relative_to_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(
        "path,features.openface,features.covarep\n"
        "a.wav,of/a.csv,/abs/a.mat\n"
        "b.wav,../b.csv,s3://bucket/b.mat\n"
        "c.wav,,\n"
        "d.wav,of/all.csd#video 1,\n"
    )
    found = [clip.features for clip in read_folder(str(tmp_path))]
    assert found == [
        {"openface": str(tmp_path / "of/a.csv"), "covarep": "/abs/a.mat"},
        {"openface": str(tmp_path.parent / "b.csv"), "covarep": "s3://bucket/b.mat"},
        None,
        {"openface": str(tmp_path / "of/all.csd#video 1")},
    ]


def test_shares_are_scaled_to_one_and_name_the_emotion(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(
        "path,emotion,shares.sad,shares.happy,shares.calm\na.wav,,1,3,0\nb.wav,calm,2,2,\nc.wav,,2,2,\nd.wav,sad,,,\n"
    )
    a, b, c, d = read_folder(str(tmp_path))
    assert (a.emotion, a.shares) == ("happy", {"sad": 0.25, "happy": 0.75, "calm": 0.0})
    assert (b.emotion, b.shares) == ("calm", {"sad": 0.5, "happy": 0.5})
    assert c.emotion == "sad"  # of equals, the first
    assert (d.emotion, d.shares) == ("sad", None)


def test_clips_of_one_long_recording_have_ids_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path,start\nlong.wav,4321.123\nlong.wav,4321.124\nlong.wav,7\n")
    ids = [clip.clip_id for clip in read_folder(str(tmp_path))]
    assert ids == ["long.wav@4321.123", "long.wav@4321.124", "long.wav@7"]


def test_of_two_manifests_one_is_read_and_the_other_reported(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path\na.wav\n")
    (tmp_path / "manifest.jsonl").write_text('{"path": "b.wav"}\n')
    problems: list[Problem] = []
    (clip,) = FolderCorpus().clips(str(tmp_path), problems.append)
    assert clip.clip_id == "a.wav"
    assert [(p.kind, p.where) for p in problems] == [("unexpected", f"{tmp_path}/manifest.jsonl")]


# --- transcripts --------------------------------------------------------------------------------------------------------

SRT = "1\n00:00:01,000 --> 00:00:02,000\none\n\n2\n00:00:05,000 --> 00:00:06,000\nfive\n"


def folder_of(source: Path, **options: object) -> tuple[list[Clip], list[Problem]]:
    problems: list[Problem] = []
    return list(open_corpus("folder", options).clips(str(source), problems.append)), problems


def test_a_transcript_file_is_cut_to_each_clip_of_its_recording(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(
        "path,start,end,transcript_file\nr.wav,,3,t/r.srt\nr.wav,4.5,,t/r.srt\nr.wav,0,,t/r.txt\nr.wav,2.5,4,t/r.srt\n"
    )
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "r.srt").write_text(SRT)
    (tmp_path / "t" / "r.txt").write_text("in my\nown words")
    (first, second, third, fourth), problems = folder_of(tmp_path)
    assert (first.words, first.transcript) == ((Word("one", 1.0, 2.0),), None)
    assert second.words == (Word("five", 0.5, 1.5),)
    assert (third.words, third.transcript) == (None, "in my own words")
    assert fourth.words == ()  # the file knows the recording, and nothing is said there
    assert [(p.kind, p.where) for p in problems] == [("note", "r.wav@2.5")]


def test_a_transcript_beside_a_recording_is_taken_and_said_so(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "a.mp4", "deep/b.wav", "c.wav", "d.wav", "e.wav", "f.wav")
    (tmp_path / "a.srt").write_text(SRT)
    (tmp_path / "f.srt").write_text("no subtitles, so no words were taken")
    (tmp_path / "a.txt").write_text("not this one: subtitles know the times")
    (tmp_path / "deep" / "b.TXT").write_text("hello")
    (tmp_path / "readme.txt").write_text("beside no recording of this name")
    (tmp_path / "d.json").write_text("{}")  # could be anything
    (tmp_path / ".e.txt").write_text("hidden")
    clips, problems = folder_of(tmp_path)
    spoken = (Word("one", 1.0, 2.0), Word("five", 5.0, 6.0))
    found = {clip.clip_id: clip.words or clip.transcript for clip in clips}
    assert found == {"a.mp4": spoken, "a.wav": spoken, "deep/b.wav": "hello"} | dict.fromkeys(
        ("c.wav", "d.wav", "e.wav", "f.wav")
    )
    assert [(p.kind, p.what.split("; ")[0]) for p in problems[1:]] == [
        ("note", "words taken from .srt files beside the recordings: 2 clips"),
        ("note", "words taken from .txt files beside the recordings: 1 clips"),
    ]
    one, _ = folder_of(tmp_path / "a.wav")
    assert one[0].words == spoken
    clips, problems = folder_of(tmp_path, beside=False)
    assert all(clip.words is None and clip.transcript is None for clip in clips)
    assert not problems


def test_a_row_with_words_of_its_own_keeps_them_and_text_is_never_cut(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.wav")
    (tmp_path / "a.srt").write_text(SRT)
    (tmp_path / "b.txt").write_text("of all of the recording")
    (tmp_path / "manifest.csv").write_text(
        'path,start,end,transcript,words\na.wav,,,mine,\na.wav,1,2,,"[[""w"", 0, 1]]"\na.wav,4,7,,\nb.wav,1,2,,\nb.wav,,,,\n'
    )
    (text, timed, cut, part, whole), _ = folder_of(tmp_path)
    assert (text.transcript, text.words) == ("mine", None)
    assert timed.words == (Word("w", 0.0, 1.0),)
    assert cut.words == (Word("five", 1.0, 2.0),)
    assert (part.transcript, part.words) == (None, None)
    assert whole.transcript == "of all of the recording"


def test_a_broken_or_missing_transcript_is_reported_once_and_its_clips_go_on(tmp_path: Path) -> None:
    files = {
        "empty.srt": b"",
        "latin.vtt": "WEBVTT\n\n00:01.000 --> 00:02.000\nZoë".encode("latin-1"),
        "no_cue.srt": b"hello",
        "cut.TextGrid": b'File type = "ooTextFile"\nObject class = "TextGrid"\n0\n5\n<exists>\n1\n"IntervalTier"',
        "deep.json": b"[" * 100_000,
        "pointer.srt": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "huge.txt": b"a" * ((16 << 20) + 1),
        "surrogate.json": b'[["\\ud800", 0, 1]]',
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.srt").mkdir()
    os.mkfifo(tmp_path / "fifo.srt")
    names = [*files, "folder.srt", "fifo.srt", "gone.srt", "http://127.0.0.1/a.srt"]
    rows = "".join(f"{i}.wav,{name}\n" for i, name in enumerate(names * 20))
    (tmp_path / "manifest.csv").write_text("path,transcript_file\n" + rows)
    clips, problems = folder_of(tmp_path)
    assert len(clips) == 20 * len(names)
    assert all(clip.words is None and clip.transcript is None for clip in clips)
    found = {problem.where.removeprefix(f"{tmp_path}/"): problem for problem in problems}
    assert sorted(found) == sorted(names)
    assert len(problems) == len(names)
    assert {name for name, problem in found.items() if problem.kind == "missing"} == {"gone.srt"}
    assert {problem.kind for problem in problems} == {"missing", "broken"}
    assert "byte 34 is 0xeb" in found["latin.vtt"].what
    assert "expected a path or one of" in found["http://127.0.0.1/a.srt"].what


def test_the_tier_of_words_is_an_option(tmp_path: Path) -> None:
    grid = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n2\n<exists>\n2\n'
    for tier, label in (("ORT", "hello"), ("KAN", "h@lo")):
        grid += f'"IntervalTier"\n"{tier}"\n0\n2\n2\n0\n1\n"{label}"\n1\n2\n""\n'
    touch(tmp_path, "a.wav")
    (tmp_path / "a.TextGrid").write_text(grid)
    (clip,), _ = folder_of(tmp_path, tier="ORT")
    assert clip.words == (Word("hello", 0.0, 1.0),)
    (clip,), problems = folder_of(tmp_path)
    assert clip.words is None
    assert "'ORT', 'KAN'" in problems[0].what


def test_each_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []

    def count(folder: str) -> list[str]:
        listed.append(folder)
        return files_in(folder)

    monkeypatch.setattr(pipeline.corpora.folder, "files_in", count)
    touch(tmp_path, *(f"s{i % 3}/{i}.wav" for i in range(300)))
    (tmp_path / "s0" / "0.srt").write_text(SRT)
    assert sum(clip.words is not None for clip in folder_of(tmp_path)[0]) == 1
    assert listed == []  # the walk has seen all
    (tmp_path / "manifest.csv").write_text("path\n" + "".join(f"s{i % 3}/{i}.wav\n" for i in range(300)))
    assert sum(clip.words is not None for clip in folder_of(tmp_path)[0]) == 1
    assert sorted(listed) == [str(tmp_path / f"s{i}") for i in range(3)]


def test_empty_and_missing_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no media file and no manifest"):
        read_folder(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        list(read_folder(str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="unknown corpus 'ravdes': expected one of folder"):
        open_corpus("ravdes")
