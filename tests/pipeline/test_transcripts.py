"""Words and their times out of transcript files, by hand, and out of files that other programs wrote."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import record
from praatio import textgrid
from praatio.utilities.constants import Interval, Point

from pipeline.clip import Word
from pipeline.corpora import open_corpus
from pipeline.media import ffmpeg_path, open_media
from pipeline.streams.words import Words
from pipeline.transcripts import cut, parse, spread

Times = list[tuple[str, float, float]]


def words(text: str | bytes, suffix: str, tier: str | None = None) -> Times:
    found = parse(text.encode() if isinstance(text, str) else text, suffix, tier)
    assert isinstance(found, tuple)
    return [(word.text, round(word.start, 6), round(word.end, 6)) for word in found]


def error(text: str | bytes, suffix: str, tier: str | None = None) -> str:
    with pytest.raises(ValueError) as e:  # noqa: PT011 (the caller checks what it says)
        parse(text.encode() if isinstance(text, str) else text, suffix, tier)
    return str(e.value)


# --- a clip of a recording ----------------------------------------------------------------------------------------------


def test_a_word_belongs_to_the_clip_that_its_middle_lies_in() -> None:
    spoken = (Word("a", 0.0, 1.0), Word("b", 1.0, 2.0), Word("c", 2.0, 2.0), Word("d", 2.5, 4.0))
    assert cut(spoken, None, None) == spoken
    assert cut(spoken, 0.4, 1.5) == (Word("a", 0.0, 0.6),)  # b's middle is the end itself: it is of the next clip
    assert cut(spoken, 1.5, 3.0) == (Word("b", 0.0, 0.5), Word("c", 0.5, 0.5))
    assert cut(spoken, 3.0, 3.5) == (Word("d", 0.0, 0.5),)
    assert cut(spoken, 5.0, None) == ()


def test_clips_side_by_side_share_out_all_words() -> None:
    random = np.random.default_rng(0)
    starts = np.sort(random.uniform(0, 60, 200))
    spoken = tuple(Word(str(i), s, s + d) for i, (s, d) in enumerate(zip(starts, random.uniform(0, 0.8, 200), strict=True)))
    edges = [0.0, *np.sort(random.uniform(0, 61, 9)), 62.0]
    clips = [cut(spoken, start, end) for start, end in itertools.pairwise(edges)]
    assert sorted(word.text for clip in clips for word in clip) == sorted(word.text for word in spoken)
    for clip, (start, end) in zip(clips, itertools.pairwise(edges), strict=True):
        assert all(0 <= word.start <= word.end <= end - start for word in clip)


def test_spread_fills_the_time_by_characters() -> None:
    assert spread(["ab", "abcdef"], 4.0, start=10.0) == [Word("ab", 10.0, 11.0), Word("abcdef", 11.0, 14.0)]
    assert spread([], 4.0) == []


# --- subtitles ----------------------------------------------------------------------------------------------------------

SRT = "1\n00:00:01,000 --> 00:00:02,000\nhi there\n\n2\n01:00:03,500 --> 01:00:04,000\nbye\n"
SAID: Times = [("hi", 1.0, 1.285714), ("there", 1.285714, 2.0), ("bye", 3603.5, 3604.0)]  # 2 and 5 characters of a second


@pytest.mark.parametrize(
    "text",
    [
        SRT,
        SRT.replace("\n", "\r\n"),
        SRT.replace("\n", "\r"),
        "\ufeff" + SRT,
        SRT.replace(",", "."),
        SRT.replace("1\n00", "00").replace("2\n01", "01"),  # without numbers
        SRT.replace("\n\n", "\n"),  # without empty lines
        SRT.replace("hi there", "hi\nthere"),
        SRT.replace("hi there", "hi\n\nthere"),
        SRT.replace("00:00:01,000", "0:00:1").replace("00:00:02,000", "00:02,000"),
        SRT.replace("02,000\n", "02,000  X1:10 X2:20 Y1:1 Y2:2\n"),
        SRT.replace("hi there", '<i>hi</i> <font color="#fff">there</font>'),
        SRT.replace("hi there", r"{\an8}- hi [door slams] ♪ there --"),
        SRT.replace("bye", "bye <3"),  # no tag
        SRT.rstrip(),
        "0\n00:00:00,000 --> 00:00:00,500\n\n" + SRT,
        "".join(f"{block}\n\n" for block in reversed(SRT.strip().split("\n\n"))),
    ],
)
def test_subrip_in_all_its_shapes(text: str) -> None:
    expected = SAID if "<3" not in text else [*SAID[:2], ("bye", 3603.5, 3603.8), ("<3", 3603.8, 3604.0)]
    assert words(text, ".srt") == expected


def test_a_number_that_is_spoken_is_no_number_of_a_cue() -> None:
    found = words("1\n00:00:01,000 --> 00:00:02,000\nI see\n42\n\n2\n00:00:03,000 --> 00:00:04,000\n7\n", ".srt")
    assert [text for text, _, _ in found] == ["I", "see", "42", "7"]


def test_utf_16_is_read_and_other_encodings_are_named() -> None:
    text = SRT.replace("bye", "très 你好")
    expected = words(text, ".srt")
    assert [w for w, _, _ in expected] == ["hi", "there", "très", "你好"]
    assert words(text.encode("utf-16"), ".srt") == expected
    assert words(b"\xfe\xff" + text.encode("utf-16-be"), ".srt") == expected
    assert "is 0xe8): save it as UTF-8" in error("très".encode("latin-1"), ".txt")
    assert "NUL" in error(SRT.encode("utf-16-le"), ".srt")


VTT = """WEBVTT - a title
Kind: captions

STYLE
::cue { color: red }

NOTE
hi is not said here

first cue
00:01.000 --> 00:02.000 align:start position:0%
<v.loud Anna>hi <c.yellow>there</c></v>

NOTE nor here

01:00:03.500 --> 01:00:04.000
bye
"""


@pytest.mark.parametrize("text", [VTT, VTT.replace("\n", "\r\n"), "\ufeff" + VTT, VTT.replace(".000", ",000"), VTT.rstrip()])
def test_webvtt_without_its_names_notes_and_styles(text: str) -> None:
    assert words(text, ".vtt") == SAID
    assert words(text, ".srt") == SAID  # what a file is, it says itself
    assert words(SRT, ".vtt") == SAID


def test_webvtt_escapes_are_characters() -> None:
    assert [w for w, _, _ in words("WEBVTT\n\n00:00.000 --> 00:01.000\nR&amp;B a&nbsp;b &lt;c&gt;\n", ".vtt")] == [
        "R&B",
        "a",
        "b",
        "<c>",
    ]


def test_timestamps_inside_a_cue_are_used() -> None:
    cue = "WEBVTT\n\n00:01.000 --> 00:03.000\none <00:01.500>two two <00:00:02.500><c>three</c>\n"
    assert words(cue, ".vtt") == [("one", 1.0, 1.5), ("two", 1.5, 2.0), ("two", 2.0, 2.5), ("three", 2.5, 3.0)]
    backwards = cue.replace("<00:00:02.500>", "<00:00:01.200>")  # before the last, or beyond the cue: held within
    assert words(backwards, ".vtt")[1:] == [("two", 1.5, 1.5), ("two", 1.5, 1.5), ("three", 1.5, 3.0)]
    assert words(cue.replace("<00:00:02.500>", "<00:00:09.000>"), ".vtt")[-1] == ("three", 3.0, 3.0)


def test_live_captions_that_roll_are_heard_once() -> None:
    """As video platforms write them: a line is shown while it is spoken, for a moment, and above the next line."""
    rolling = (
        "WEBVTT\nKind: captions\nLanguage: en\n\n"
        "00:00:01.000 --> 00:00:02.990 align:start position:0%\n \nno<00:00:01.500><c> no</c><00:00:02.000><c> not</c>\n\n"
        "00:00:02.990 --> 00:00:03.000 align:start position:0%\nno no not\n \n\n"
        "00:00:03.000 --> 00:00:04.000 align:start position:0%\nno no not\nnow<00:00:03.500><c> no</c>\n\n"
        "00:00:04.000 --> 00:00:04.010 align:start position:0%\nnow no\n \n\n"
        "00:00:09.000 --> 00:00:10.000 align:start position:0%\n \nnow no\n"
    )
    said = [("no", 1.0, 1.5), ("no", 1.5, 2.0), ("not", 2.0, 2.99), ("now", 3.0, 3.5), ("no", 3.5, 4.0)]
    assert words(rolling, ".vtt") == [*said, ("now", 9.0, 9.6), ("no", 9.6, 10.0)]


def test_cues_that_overlap_are_all_heard_in_order() -> None:
    text = "1\n00:00:01,000 --> 00:00:04,000\na b c\n\n2\n00:00:02,500 --> 00:00:03,500\nyes\n"
    assert words(text, ".srt") == [("a", 1.0, 2.0), ("b", 2.0, 3.0), ("yes", 2.5, 3.5), ("c", 3.0, 4.0)]


def test_ffmpeg_turns_one_kind_into_the_other_and_the_words_stay(tmp_path: Path) -> None:
    source = tmp_path / "a.srt"
    source.write_text(SRT.replace("hi there", "<i>hi</i>\nthere"))
    for name in ("b.vtt", "b.srt"):
        subprocess.run([ffmpeg_path(), "-loglevel", "error", "-i", str(source), str(tmp_path / name)], check=True)
        assert words((tmp_path / name).read_bytes(), name[1:]) == SAID


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\ufeff \n", "the file is empty"),
        ("hello", "holds no cue: expected lines such as"),
        (SRT.replace("00:00:02,000", "00:00:00,000"), "line 2: the cue ends at 0 s, before its start at 1 s"),
        (SRT.replace("00:00:02,000", "soon"), "line 2: expected 00:00:01,000 --> 00:00:02,500, found '00:00:01,000 --> soon'"),
        (SRT.replace("01:00:04,000", ""), "line 6: expected"),
    ],
)
def test_broken_subtitles_say_where(text: str, message: str) -> None:
    assert message in error(text, ".srt")


def test_webvtt_without_a_cue_holds_no_words() -> None:
    assert parse(b"WEBVTT\n", ".vtt") == ()


# --- TextGrid -----------------------------------------------------------------------------------------------------------

LONG = '''File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2.5
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "TextTier"
        name = "bell"
        xmin = 0
        xmax = 2.5
        points: size = 1
        points [1]:
            number = 1.5
            mark = "words"
    item [2]:
        class = "IntervalTier"
        name = "Words"
        xmin = 0
        xmax = 2.5
        intervals: size = 5
        intervals [1]:
            xmin = 1.1368683772161603e-13
            xmax = 0.5
            text = "sp"
        intervals [2]:
            xmin = 0.5
            xmax = 1
            text = "say"
        intervals [3]:
            xmin = 1
            xmax = 1.25
            text = "<p:>"
        intervals [4]:
            xmin = 1.25
            xmax = 2
            text = "see item [1]: ""intervals [2]"""
        intervals [5]:
            xmin = 2
            xmax = 2.5
            text = ""
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 2.5
        intervals: size = 0
'''
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
2.5
<exists>
1
"IntervalTier"
"word"
0
2.5
3
0
0.5
"SIL"
0.5
1
"say"
1
2.5
"{NS}"
"""


def test_a_long_textgrid_by_hand() -> None:
    found = words(LONG, ".textgrid")
    assert [w for w, _, _ in found] == ["say", "see", "item", '"intervals']
    assert found[0] == ("say", 0.5, 1.0)
    assert (found[1][0], found[1][1], found[-1][2]) == ("see", 1.25, 2.0)


@pytest.mark.parametrize("text", [SHORT, SHORT.replace("\n", "\r\n"), SHORT.replace("\n", "\r"), "! a comment 5\n" + SHORT])
def test_a_short_textgrid_by_hand(text: str) -> None:
    assert words(text, ".textgrid") == [("say", 0.5, 1.0)]
    assert words(text.encode("utf-16"), ".textgrid") == [("say", 0.5, 1.0)]
    assert words(b"\xfe\xff" + text.encode("utf-16-be"), ".textgrid") == [("say", 0.5, 1.0)]


def grid_by_praatio(path: Path, form: str, **tiers: Times) -> bytes:
    grid = textgrid.Textgrid(0, 10)
    for name, intervals in tiers.items():
        grid.addTier(textgrid.IntervalTier(name, [Interval(start, end, text) for text, start, end in intervals], 0, 10))
    grid.addTier(textgrid.PointTier("clicks", [Point(1.0, "click")], 0, 10))
    grid.save(str(path), format=form, includeBlankSpaces=True)
    return path.read_bytes()


@pytest.mark.parametrize("form", ["long_textgrid", "short_textgrid"])
def test_a_textgrid_that_praatio_wrote(tmp_path: Path, form: str) -> None:
    said: Times = [("one", 0.5, 1.25), ("l'été", 2.0, 2.5), ('"quoted"', 2.5, 3.125)]
    phones: Times = [("w", 0.5, 1.0)]
    data = grid_by_praatio(tmp_path / "a.TextGrid", form, phones=phones, WORDS=said, notes=[("a note", 0.0, 9.0)])
    assert words(data, ".textgrid") == said
    assert words(data, ".textgrid", tier="phones") == phones
    assert "'phones', 'WORDS', 'notes': expected one called 'clicks'" in error(data, ".textgrid", tier="clicks")
    only = grid_by_praatio(tmp_path / "b.TextGrid", form, utterance=[("one two", 1.0, 2.0)])
    assert words(only, ".textgrid") == [("one", 1.0, 1.5), ("two", 1.5, 2.0)]
    several = grid_by_praatio(tmp_path / "c.TextGrid", form, anna=said, bob=phones)
    assert "its tiers of intervals are 'anna', 'bob': expected one called words" in error(several, ".textgrid")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ooBinaryFile\x08TextGrid", "a binary TextGrid"),
        ('File type = "ooTextFile"\nObject class = "Pitch 1"\n', "no TextGrid: expected 'ooTextFile' and 'TextGrid'"),
        ("hello", "ends where a string was expected"),
        (LONG[:700], "ends where a"),
        (LONG.replace("xmax = 1\n", "xmax = soon\n"), 'line 31: expected a number, found "say"'),
        (LONG.replace("xmax = 1\n", "xmax = 0.25\n"), "line 31: expected an end after the start, found 'say'"),
        (LONG.replace("xmax = 1\n", "xmax = 1e999\n"), "line 30: expected a finite number, found inf"),
        (LONG.replace("size = 5", "size = 1e300"), "line 45: expected a number, found"),
        (LONG.replace('"TextTier"', '"ImageTier"'), "expected IntervalTier or TextTier, found 'ImageTier'"),
        (SHORT.replace("<exists>\n1", "<absent>\n"), "its tiers of intervals are none"),
    ],
)
def test_a_broken_textgrid_says_where(text: str, message: str) -> None:
    assert message in error(text, ".textgrid")


# --- JSON and text ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '[["hi", 1, 1.5], ["you", 2, 3]]',
        '[{"word": " hi", "start": 1.0, "end": 1.5, "probability": 0.9}, {"text": "you", "start": 2, "end": 3}]',
        '{"words": [["you", 2, 3], ["hi", 1, 1.5]], "segments": [{"text": "hi you", "start": 0, "end": 9}]}',
        '{"segments": [{"words": [["hi", 1, 1.5]]}, {"text": " you", "start": 2, "end": 3, "words": []}]}',
    ],
)
def test_json_words_as_recognisers_write_them(text: str) -> None:
    assert words(text, ".json") == [("hi", 1.0, 1.5), ("you", 2.0, 3.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "not JSON"),
        ("5", "found '5', expected [[word, start, end], ...]"),
        ('{"text": "hi"}', "expected [[word, start, end], ...]"),
        ('[["hi", 1]]', "expected [[word, start, end], ...]"),
        ('[["hi", "1", "2"]]', "expected [[word, start, end], ...]"),
        ('[["hi", 2, 1]]', "the word 'hi' runs from 2 to 1 s"),
        ('[["hi", NaN, 1]]', "the word 'hi' runs from nan to 1 s"),
        ('[["hi", 0, 1e999]]', "the word 'hi' runs from 0 to inf s"),
        (f'[["hi", 0, {"9" * 500}]]', "the word 'hi' runs from 0 to 99999999999999999999 s"),
        ('{"segments": [{"text": "hi"}]}', "expected [[word, start, end], ...]"),
        ("[" * 100_000, "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
    ],
)
def test_broken_json_says_what_was_found(text: str, message: str) -> None:
    assert message in error(text, ".json")


def test_text_is_text() -> None:
    assert parse("\ufeff Hello,\r\n  you! ".encode(), ".txt") == "Hello, you!"


# --- the whole way, and limits ------------------------------------------------------------------------------------------


def test_subtitles_become_the_words_stream_of_each_clip(tmp_path: Path) -> None:
    record(tmp_path / "r.wav", samples=np.zeros(16_000 * 4))
    (tmp_path / "r.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nthe door\n\n2\n00:00:03,000 --> 00:00:04,000\nby\n")
    (tmp_path / "manifest.csv").write_text("path,start,end\nr.wav,0.5,2.5\nr.wav,2.5,\n")
    first, second = open_corpus("folder").clips(str(tmp_path), print)
    stream = Words(asr=False)
    stream.load()
    for clip, tokens, times in ((first, ("the", "door"), [0.5 + 3 / 14, 1.5 - 2 / 7]), (second, ("by",), [1.0])):
        with open_media(clip) as media:
            features = stream.extract(clip, media)
        assert features.tokens == tokens
        assert features.times == pytest.approx(times)


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ("1\n" * 500_000, ".srt"),
        ("WEBVTT\n\n00:00.000 --> 00:01.000\n" + "<a" * 500_000, ".vtt"),
        ("WEBVTT\n\n00:00.000 --> 00:01.000\n" + "<00:00.500>[" * 100_000, ".vtt"),
        ("0" * 1_000_000 + "\n0 --> ", ".srt"),
        ('"' * 1_000_001, ".textgrid"),
        (SHORT.replace('"say"', '"' + '""' * 500_000), ".textgrid"),
        ("<" * 1_000_000, ".textgrid"),
    ],
)
def test_no_file_takes_long(text: str, suffix: str) -> None:
    began = time.process_time()
    with contextlib.suppress(ValueError):
        parse(text.encode(), suffix)
    assert time.process_time() - began < 3


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_bytes_are_words_in_order_or_a_value_error(data: st.DataObject) -> None:
    """Bytes at random, and good files with a piece replaced by other bytes or by a piece of another."""
    good = {".srt": SRT, ".vtt": VTT, ".textgrid": LONG, ".json": '[["hi", 1, 1.5], {"word": "you", "start": 2, "end": 3}]'}
    suffix = data.draw(st.sampled_from([*good, ".txt"]))
    whole = good.get(suffix, "hello").encode()
    first = data.draw(st.integers(0, len(whole)))
    last = data.draw(st.integers(first, len(whole)))
    piece = data.draw(
        st.one_of(st.binary(max_size=20), st.sampled_from([b"-->", b'"', b"<", b"[", b"\n\n", b"9" * 500, b"1e999"]))
    )
    try:
        found = parse(whole[:first] + piece + whole[last:], suffix)
    except ValueError:
        return
    if isinstance(found, tuple):
        assert all(np.isfinite([word.start, word.end]).all() and word.start <= word.end for word in found)
        assert [word.start for word in found] == sorted(word.start for word in found)


def test_reading_a_corpus_loads_no_extractor() -> None:
    code = "import sys, pipeline.corpora.folder; print([*sys.modules])"
    root = Path(__file__).parents[2]
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root).stdout
    assert "'pipeline.transcripts'" in modules
    assert "'pipeline.streams" not in modules
    assert "'scipy" not in modules
