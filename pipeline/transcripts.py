"""Transcripts in the forms people hold them: plain text, SubRip, WebVTT, Praat TextGrid, JSON lists of words.

Pure functions of a file's bytes. Times are seconds in the recording, as those files count them; cut() makes them a clip's.

Subtitles time a cue of several words, not each word: its words fill its time in proportion to their characters, and WebVTT's
timestamps inside a cue narrow that down. Tags, style overrides and sounds in square brackets are not spoken and are left
out; names of speakers are where they are tags (`<v Anna>`), and stay where they are text ("ANNA: ...").

Sources: WebVTT, W3C 2019; Praat's manual, "TextGrid file formats". SubRip has no specification.
"""

from __future__ import annotations

import html
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.clip import Word

SUFFIXES = (".textgrid", ".vtt", ".srt", ".json", ".txt")
MAX_BYTES = 16 << 20  # the TextGrid of a recording of some hours, with its phones
WORD_LIST = "[[word, start, end], ...] in seconds"


def parse(data: bytes, suffix: str, tier: str | None = None) -> str | tuple[Word, ...]:
    """The words of a transcript file, ordered by time; of .txt, which has no times, its text.

    suffix: one of SUFFIXES. tier: the name of a TextGrid's tier of words; None is the one called word or words, else the
    only tier of intervals. Raises ValueError, saying where and what was expected, for a file that can't be read.
    """
    text = decode(data)
    if not text.strip():
        raise ValueError("the file is empty")
    if suffix == ".txt":
        return " ".join(text.split())
    if suffix == ".textgrid":
        found = list(_textgrid_words(text, tier))
    elif suffix == ".json":
        found = list(_json_words(text))
    else:
        found = list(_subtitle_words(text))
    return tuple(sorted(found, key=lambda word: (word.start, word.end)))


def cut(words: Sequence[Word], start: float | None, end: float | None) -> tuple[Word, ...]:
    """The words of a clip, of those of its recording: whose middles lie in it, cut off at its edges, from its start."""
    first, last = start or 0.0, math.inf if end is None else end
    return tuple(
        Word(word.text, max(word.start, first) - first, min(word.end, last) - first)
        for word in words
        if first <= (word.start + word.end) / 2 < last
    )


def spread(words: Sequence[str], duration: float, start: float = 0.0) -> list[Word]:
    """Words with times that fill `duration` seconds from `start` on, each as long as its share of the characters."""
    scale = duration / max(sum(len(word) for word in words), 1)
    ends = [start + n * scale for n in itertools.accumulate(len(word) for word in words)]
    return [Word(*word) for word in zip(words, [start, *ends], ends, strict=False)]


def decode(data: bytes) -> str:
    """Text in UTF-8, or in UTF-16 with a byte order mark. Raises ValueError, naming the byte, for anything else."""
    encoding = encoding_of(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as e:
        raise ValueError(f"not UTF-8 or UTF-16 text (byte {e.start} is 0x{data[e.start]:02x}): save it as UTF-8") from e
    if "\0" in text:
        raise ValueError("holds NUL characters: no text, or UTF-16 without a byte order mark; save it as UTF-8")
    return text


def encoding_of(head: bytes) -> str:
    """By a file's first bytes: utf-16 where they are its byte order mark, else utf-8."""
    return "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"


def _spoken(text: str, start: float, end: float) -> list[Word]:
    """The words of a text that fills a time; what holds no letter and no digit is not spoken."""
    return spread([word for word in text.split() if any(c.isalnum() for c in word)], end - start, start)


# ---------------------------------------------------------------------------------------------------------- JSON


def word_list(value: Any) -> tuple[Word, ...]:
    """Words of a JSON value: [[word, start, end], ...], or objects with "word" or "text", "start" and "end", as written.

    Raises ValueError, naming the first that is not one.
    """
    if not isinstance(value, list):
        raise ValueError(f"found {_short(value)}, expected {WORD_LIST}")
    return tuple(_word(item) for item in value)


def _word(item: Any) -> Word:
    if isinstance(item, dict):
        item = [item.get("word", item.get("text")), item.get("start"), item.get("end")]
    match item:
        case [str(text), int() | float() as start, int() | float() as end]:
            text.encode()  # half a surrogate pair can't be stored
        case _:
            raise ValueError(f"found {_short(item)}, expected {WORD_LIST}")
    if not 0 <= start <= end < 1e9:  # infinities, and integers that no float can hold
        raise ValueError(f"the word {text.strip()!r} runs from {start!s:.20} to {end!s:.20} s")
    return Word(text.strip(), float(start), float(end))


def load_json(text: str) -> Any:
    """Raises ValueError for what is no JSON, or nested deeper than anybody's words are."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"not JSON ({e})") from e


def _json_words(text: str) -> Iterator[Word]:
    """Lists of words, {"words": [...]}, and what Whisper writes, {"segments": [...]}, with words or with text alone."""
    found = load_json(text)
    if not isinstance(found, dict):
        yield from word_list(found)
    elif "words" in found or not isinstance(found.get("segments"), list):
        yield from word_list(found.get("words", found))
    else:
        for segment in found["segments"]:
            if isinstance(segment, dict) and segment.get("words"):
                yield from word_list(segment["words"])
            else:
                whole = _word(segment)
                yield from _spoken(whole.text, whole.start, whole.end)


def _short(value: Any) -> str:
    text = str(value)
    return repr(text if len(text) <= 80 else text[:80] + "...")


# ----------------------------------------------------------------------------------------------------- subtitles

_TIME = r"(?:[0-9]{1,4}:)?[0-9]{1,2}:[0-9]{1,2}(?:[.,][0-9]{1,3})?"
_TIMING = re.compile(rf"\s*({_TIME})\s*-->\s*({_TIME})(?:\s.*)?")
_LIKE_A_TIMING = re.compile(r"\s*[0-9][0-9:.,]*\s*-->")
_INSIDE = re.compile(rf"<({_TIME})>")
_NOT_SPOKEN = re.compile(r"</?[A-Za-z][^<>]*>|\{\\[^{}]*\}|\[[^\[\]]*\]")
_LINE_END = re.compile(r"\r\n|\r|\n")
_TOUCHING = 0.05  # seconds between two cues of which the second still shows a line of the first


def _subtitle_words(text: str) -> Iterator[Word]:
    """Of SubRip and of WebVTT, which differ in what ends a cue: in WebVTT an empty line, in SubRip the next cue's number."""
    lines = _LINE_END.split(text)
    vtt = text.lstrip().startswith("WEBVTT")
    cues = list(_timings(lines))
    if not cues and not vtt:
        raise ValueError("holds no cue: expected lines such as 00:00:01,000 --> 00:00:02,500")
    rolling = any(_INSIDE.search(line) for line in lines)
    before: list[str] = []
    until = 0.0
    for (number, start, end), (following, _, _) in itertools.pairwise([*cues, (len(lines), 0.0, 0.0)]):
        body = lines[number + 1 : following]
        if vtt:
            body = list(itertools.takewhile(bool, body))
        elif following < len(lines) and body and body[-1].strip().isdigit():
            body.pop()
        shown = [_plain(_INSIDE.sub("", line)) for line in body]
        # Live captions roll: the line that was new in the last cue stays for the next one. It was spoken once.
        stays = before if rolling and start <= until + _TOUCHING else []
        fresh = [line for line, plain in zip(body, shown, strict=True) if plain not in stays]
        yield from _cue_words("\n".join(fresh), start, end)
        before, until = shown, end


def _timings(lines: list[str]) -> Iterator[tuple[int, float, float]]:
    """(index of the line, start, end) of each cue."""
    for number, line in enumerate(lines):
        if match := _TIMING.fullmatch(line):
            start, end = _seconds(match[1]), _seconds(match[2])
            if end < start:
                raise ValueError(f"line {number + 1}: the cue ends at {end:g} s, before its start at {start:g} s")
            yield number, start, end
        elif _LIKE_A_TIMING.match(line):
            raise ValueError(f"line {number + 1}: expected 00:00:01,000 --> 00:00:02,500, found {line.strip()[:80]!r}")


def _cue_words(text: str, start: float, end: float) -> Iterator[Word]:
    first, *rest = _INSIDE.split(text)
    begin = start
    for piece, stamp in zip([first, *rest[1::2]], [*rest[::2], None], strict=True):
        stop = end if stamp is None else min(max(_seconds(stamp), begin), end)
        yield from _spoken(_plain(piece), begin, stop)
        begin = stop


def _plain(text: str) -> str:
    return html.unescape(_NOT_SPOKEN.sub("", text)).strip()


def _seconds(stamp: str) -> float:
    clock, _, fraction = stamp.replace(",", ".").partition(".")
    whole = 0
    for part in clock.split(":"):
        whole = whole * 60 + int(part)
    return (whole * 1000 + int(fraction.ljust(3, "0"))) / 1000


# ------------------------------------------------------------------------------------------------------ TextGrid

# Praat reads text in double quotes, free-standing numbers, flags and nothing else; the rest is for people. This holds for
# the long form and the short one alike.
_TOKEN = re.compile(
    r"""
      "(?P<string>[^"]*(?:""[^"]*)*)"
    | (?<!\S)(?P<number>[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)(?!\S)
    | <(?P<flag>exists|absent)>
    | (?<!\S)!(?P<comment>[^\r\n]*)
    """,
    re.VERBOSE,
)
_PAUSES = frozenset("sp sil ssil spn nsn pau".split())  # of the Penn, Montreal and HTK aligners
_MARK = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|\{[^{}]*\}")  # <p:> of MAUS, <unk>, [laughter], {NS}


def _textgrid_words(text: str, tier: str | None) -> Iterator[Word]:
    tiers = list(_tiers(text))
    names = ", ".join(repr(name) for name, _ in tiers) or "none"
    if tier is not None:
        chosen = [intervals for name, intervals in tiers if name == tier]
    else:
        chosen = [intervals for name, intervals in tiers if name.strip().lower() in ("word", "words")]
        if not chosen and len(tiers) == 1:
            chosen = [tiers[0][1]]
    if not chosen:
        expected = "words, or a choice by the option tier" if tier is None else repr(tier)
        raise ValueError(f"its tiers of intervals are {names}: expected one called {expected}")
    for label, start, end in chosen[0]:
        if label.strip().lower() not in _PAUSES:
            yield from _spoken(_MARK.sub("", label), start, end)


def _tiers(text: str) -> Iterator[tuple[str, list[tuple[str, float, float]]]]:
    """(name, [(label, start, end), ...]) of each tier of intervals."""
    if text.startswith("ooBinaryFile"):
        raise ValueError("a binary TextGrid: save it as a text file in Praat")
    tokens = _Tokens(text)
    header = tokens.string(), tokens.string()
    if not header[0].startswith("ooTextFile") or header[1] != "TextGrid":
        raise ValueError(f"no TextGrid: expected 'ooTextFile' and 'TextGrid', found {header[0][:40]!r} and {header[1][:40]!r}")
    tokens.number(), tokens.number()
    if tokens.flag() == "absent":
        return
    for _ in range(int(tokens.number())):
        kind, name = tokens.string(), tokens.string()
        tokens.number(), tokens.number()
        size = int(tokens.number())
        if kind == "IntervalTier":
            yield name, [tokens.interval() for _ in range(size)]
        elif kind == "TextTier":
            for _ in range(size):
                tokens.number(), tokens.string()
        else:
            raise tokens.error("IntervalTier or TextTier", repr(kind))


class _Tokens:
    """What Praat would read of a text, one by one. Raises ValueError, naming the line, where another kind comes."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found = (match for match in _TOKEN.finditer(text) if match.lastgroup != "comment")
        self._at = 0

    def _next(self, kind: str) -> str:
        match = next(self._found, None)
        if match is None:
            raise ValueError(f"ends where a {kind} was expected: the file was cut")
        self._at = match.start()
        if match.lastgroup != kind:
            raise self.error(f"a {kind}", match.group()[:40])
        return match[kind]

    def error(self, expected: str, found: str) -> ValueError:
        return ValueError(f"line {self._text.count(chr(10), 0, self._at) + 1}: expected {expected}, found {found}")

    def string(self) -> str:
        return self._next("string").replace('""', '"')

    def number(self) -> float:
        value = float(self._next("number"))
        if not math.isfinite(value):
            raise self.error("a finite number", f"{value:g}")
        return value

    def flag(self) -> str:
        return self._next("flag")

    def interval(self) -> tuple[str, float, float]:
        start, end, label = self.number(), self.number(), self.string()
        if start > end:
            raise self.error("an end after the start", f"{label[:40]!r} from {start:g} to {end:g} s")
        return label, start, end
