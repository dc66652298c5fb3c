from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.clip import Word
from pipeline.corpora import open_corpus
from pipeline.corpora.folder import read as read_folder


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_folder_without_manifest_lists_media_in_order_through_links(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    touch(clips, "b.wav", "a/x.MP4", "a/readme.txt", ".hidden.wav", ".git/y.wav")
    touch(tmp_path / "elsewhere", "z.flv")
    (clips / "linked").symlink_to(tmp_path / "elsewhere")
    (clips / "a" / "loop").symlink_to(clips)
    found = list(read_folder(str(clips)))
    assert [c.clip_id for c in found] == ["a/x.MP4", "b.wav", "linked/z.flv"]
    assert found[1].uri == str(clips / "b.wav")
    assert all(c.emotion is None and c.speaker is None for c in found)


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
    from_csv = list(read_folder(str(tmp_path)))
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
        ("path,words\na.wav,hello\n", r"line 2: words is not JSON"),
        ('path,words\na.wav,"[[1, 2]]"\n', r"line 2: words is .* expected \[\[word, start, end\]"),
        ('path,words\na.wav,"[[""x"", 2, 1]]"\n', r"line 2: the word 'x' runs from 2 to 1 s"),
    ],
)
def test_a_wrong_manifest_is_an_error_that_names_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        list(read_folder(str(tmp_path)))


def test_empty_and_missing_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no media file and no manifest"):
        list(read_folder(str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        list(read_folder(str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="unknown corpus 'ravdes': expected one of folder"):
        open_corpus("ravdes")
