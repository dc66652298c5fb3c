"""CMU-MOSEI (Zadeh et al. 2018) from its computational sequences: features that others extracted, and labels. No recordings.

SOURCE is a folder, or a bucket's prefix, that holds the published files (CMU_MOSEI_Labels.csd, CMU_MOSEI_COVAREP.csd, ...),
at any depth. What a file is, its root group says, not its name. Only the labels must be there.

A clip is one interval of "All Labels", with its number in the file: VIDEO[3], as the CMU-MultimodalSDK names it. Its
labels are the intensities of six emotions, 0 to 3, and the sentiment, -3 to 3, as an attribute. Its folds are the standard
split, by video (the SDK's cmu_mosei_std_folds). Nobody distributes who speaks in which video, so the speaker is the video:
a person who is in several videos counts as several.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.clip import Clip, Modality, Word
from pipeline.corpora.base import Corpus, Count, Kind, Problem, Report
from pipeline.corpora.listing import all_files, suffix_of
from pipeline.csd import PAUSE, CsdError, CsdFile, cut

EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
SENTIMENT = "sentiment"
PUBLISHED_ORDER = (SENTIMENT, *EMOTIONS)
OTHER_NAMES = {"happiness": "happy", "sadness": "sad", "angry": "anger", "surprised": "surprise", "disgusted": "disgust"}
HIGHEST = 3.0

DIMENSION_NAMES = ("dimension names", "dimension namescomputational sequence version")
"""Keys of the metadata that names the columns; in the second, the published writer has run two into one."""

LABELS, WORDS = "All Labels", "words"
SEQUENCES = {"covarep": "COVAREP", "facet": "FACET 4.2", "openface": "OpenFace_2", "glove": "glove_vectors"}
"""Streams, and the sequences that they are read from."""
KNOWN_ROOTS = {
    "alllabels": LABELS,
    "words": WORDS,
    "covarep": "COVAREP",
    "coavarep": "COVAREP",
    "facet": "FACET 4.2",
    "facet42": "FACET 4.2",
    "openface": "OpenFace_2",
    "openface2": "OpenFace_2",
    "openface20": "OpenFace_2",
    "glovevectors": "glove_vectors",
}
"""Names of root groups, as letters and digits alone, in the spellings that are about."""

PICKLES = (".pkl", ".pickle", ".p", ".pk")
WHY_NO_PICKLES = (
    "pickles are not read: opening one runs whatever program its maker put in. Take the .csd files; or unpack it on a machine "
    "that has nothing to lose, save each sequence there with numpy.save(..., allow_pickle=False) or as Parquet, write a "
    "manifest, and read those as corpus folder"
)


@dataclass(frozen=True)
class CmuMosei(Corpus):
    """See the module."""

    name: ClassVar[str] = "cmu_mosei"
    licence: ClassVar[str] = "research; terms of its distributor (Carnegie Mellon University)"
    holds: ClassVar[str] = "folder of the published .csd files"
    streams: ClassVar[dict[Modality, tuple[str, ...]] | None] = {
        "audio": ("covarep",),
        "vision": ("facet",),
        "text": ("glove",),
    }

    def clips(self, source: str, report: Report) -> Iterator[Clip]:
        """A clip for each labelled interval, by video and then in the file's order.

        Segments that begin before 0, overlap, run past the end or have no length keep their row, with the times of the
        file. A label above 3 (extra raters gave some) becomes 3. A segment with a label that is negative or no number has
        no label. A video in no fold has none, and a video without a sequence is absent in that stream.
        """
        with contextlib.ExitStack() as stack:
            files = _open_all(source, report, stack)
            notes = _Notes()
            labels, words_file = files[LABELS], files.get(WORDS)
            streams = {stream: files[root] for stream, root in SEQUENCES.items() if root in files}
            names = _label_names(labels.file, report)
            folds = {video: fold for fold, videos in standard_folds().items() for video in videos}
            for video in sorted(labels.videos):
                if not video.isprintable() or "#" in video:
                    report(Problem("broken", repr(video), "the id of a video: expected printable letters, without #"))
                    continue
                try:
                    intervals, values = labels.file.rows(video)
                except CsdError as e:
                    report(Problem("broken", video, str(e)))
                    continue
                if values.shape[1] != len(names):
                    what = f"{values.shape[1]} labels a segment, expected {len(names)}: {', '.join(names)}"
                    report(Problem("broken", video, f"{labels.file.where} has {what}"))
                    continue
                addresses = {stream: f"{of.address}#{video}" for stream, of in streams.items() if video in of.videos}
                if video not in folds:
                    notes.add("note", "labelled videos that are in no fold of the standard split", video)
                for stream in (s for s in streams if s not in addresses):
                    notes.add("missing", f"labelled videos that {SEQUENCES[stream]} does not hold: absent in {stream}", video)
                words = None
                if words_file is not None and video in words_file.videos:
                    words = _Words(words_file.file, video, report)
                elif words_file is not None:
                    notes.add("missing", "labelled videos that have no words", video)
                _note_times(video, intervals, notes)
                for i, ((start, end), row) in enumerate(zip(intervals.tolist(), values.tolist(), strict=True)):
                    clip_id = f"{video}[{i}]"
                    intensities, sentiment = _labels(clip_id, dict(zip(names, row, strict=True)), notes)
                    spoken = None if words is None else words.between(start, end)
                    yield Clip(
                        clip_id=clip_id,
                        uri=f"{labels.address}#{video}",
                        start=start,
                        end=end,
                        speaker=video,
                        transcript=None if spoken is None else " ".join(w.text for w in spoken),
                        words=spoken,
                        intensities=intensities,
                        fold=folds.get(video),
                        features=addresses or None,
                        attributes={} if sentiment is None else {SENTIMENT: f"{sentiment:g}"},
                    )
            for video in sorted(folds.keys() - labels.videos):
                notes.add("missing", "videos of the standard split that have no labels", video)
            notes.report(labels.file.where, report)

    def counts(self, clips: Sequence[Clip]) -> list[Count]:
        """The published labels have 3,291 videos: the 3,227 of the standard split but two of its test fold, and 66 more."""
        fold_of = {c.speaker: c.fold for c in clips}
        found = Counter(fold_of.values())
        return [
            Count("segments", len(clips)),
            Count("segments with intensities", sum(c.intensities is not None for c in clips)),
            Count("videos", len(fold_of), 3291),
            Count("videos in fold train", found["train"], 2249),
            Count("videos in fold valid", found["valid"], 300),
            Count("videos in fold test", found["test"], 676),
            Count("videos in no fold", found[None], 66),
            *(Count(f"segments with {s}", sum(s in (c.features or {}) for c in clips)) for s in SEQUENCES),
            Count("segments with words", sum(bool(c.words) for c in clips)),
        ]


def standard_folds() -> dict[str, list[str]]:
    """The standard split: video ids of train, valid and test."""
    text = importlib.resources.files("pipeline.corpora").joinpath("mosei_folds.json").read_text()
    folds: dict[str, list[str]] = json.loads(text)
    return folds


class _Held(NamedTuple):
    """A sequence that is there: its open file, where it is, and the videos that it holds."""

    file: CsdFile
    address: str
    videos: frozenset[str]


def _open_all(source: str, report: Report, stack: contextlib.ExitStack) -> dict[str, _Held]:
    """The sequences that are there, by name. Raises ValueError where there are no labels."""
    found: dict[str, _Held] = {}
    addresses, others = _files(source)
    if not addresses and (pickles := [o for o in others if o.lower().endswith(PICKLES)]):
        raise ValueError(f"{pickles[0]}: {WHY_NO_PICKLES}")
    for address in addresses:
        name = address.rpartition("/")[2]
        if "#" in address or address != address.encode("utf-8", "replace").decode():
            raise ValueError(
                f"{address!r}: expected a name in UTF-8 and without #, which stands before a video's id; rename it"
            )
        try:
            file = stack.enter_context(CsdFile(address))
            videos = frozenset(file.videos())
        except (CsdError, FileNotFoundError) as e:
            report(Problem("broken", name, str(e)))
            continue
        root = KNOWN_ROOTS.get(re.sub(r"[^a-z0-9]", "", file.name.lower()))
        if root is None or root in found:
            expected = ", ".join((LABELS, *SEQUENCES.values(), WORDS))
            what = f"a second {root}: the first was taken" if root else f"sequence {file.name!r}: expected one of {expected}"
            report(Problem("unexpected", name, what))
            continue
        found[root] = _Held(file, address, videos)
    if LABELS not in found:
        there = ", ".join(f"{root} ({of.file.where})" for root, of in found.items()) or f"{len(addresses)} .csd files"
        raise ValueError(
            f"{source}: expected CMU-MOSEI's .csd files, {LABELS} (CMU_MOSEI_Labels.csd) among them; found {there}"
        )
    for root in (*SEQUENCES.values(), WORDS):
        if root not in found:
            report(Problem("missing", root, f"no .csd file with the root group {root!r}"))
    return found


def _files(source: str) -> tuple[list[str], list[str]]:
    """Addresses of the .csd files in a folder or below a prefix, and of all others; or of the one file that the source is."""
    one = suffix_of(source) in (".csd", *PICKLES)
    addresses = [source] if one else [address for _, address in all_files(source)]
    return [a for a in addresses if a.endswith(".csd")], [a for a in addresses if not a.endswith(".csd")]


def _label_names(labels: CsdFile, report: Report) -> tuple[str, ...]:
    """What the columns of the labels are: as the file says, or, where it says nothing, in the published order."""
    for key in DIMENSION_NAMES:
        said = labels.metadata(key)
        if not isinstance(said, list):
            continue
        names = tuple(OTHER_NAMES.get(n, n) for n in (str(name).strip().lower() for name in said))
        if set(EMOTIONS) <= set(names) and len(set(names)) == len(names):
            return names
        what = f"dimension names {str(said)[:200]}: expected {', '.join(PUBLISHED_ORDER)}, whose order was taken"
        report(Problem("unexpected", labels.where, what))
    return PUBLISHED_ORDER


def _labels(clip_id: str, row: dict[str, float], notes: _Notes) -> tuple[dict[str, float] | None, float | None]:
    """Intensities, and the sentiment; None where there is none that can be used."""
    sentiment = row.get(SENTIMENT)
    if sentiment is not None and not math.isfinite(sentiment):
        notes.add("broken", "segments whose sentiment is no number: they have none", clip_id)
        sentiment = None
    if not all(0 <= row[emotion] < math.inf for emotion in EMOTIONS):
        notes.add("broken", "segments with a label that is negative or no number: they have no labels", clip_id)
        return None, sentiment
    if above := sum(row[emotion] > HIGHEST for emotion in EMOTIONS):
        notes.add("note", "labels above 3, which were set to 3", clip_id, above)
    return {emotion: min(row[emotion], HIGHEST) for emotion in EMOTIONS}, sentiment


def _note_times(video: str, intervals: npt.NDArray[np.float64], notes: _Notes) -> None:
    starts, ends = intervals.T
    if not np.isfinite(intervals).all() or (ends <= starts).any():
        notes.add("broken", "videos with segments that end before they begin or have no times", video)
    if (starts < 0).any():
        notes.add("note", "videos with segments that begin before 0", video)
    order = np.argsort(starts, kind="stable")
    if (starts[order][1:] < np.maximum.accumulate(ends[order])[:-1]).any():
        notes.add("note", "videos with segments that overlap", video)


class _Words:
    """The words of one video, without pauses."""

    def __init__(self, file: CsdFile, video: str, report: Report) -> None:
        self.intervals, self.texts = np.empty((0, 2)), np.empty(0, object)
        try:
            intervals, texts = file.words(video)
        except CsdError as e:
            report(Problem("broken", video, str(e)))
            return
        spoken = np.array([t != PAUSE and t.strip() != "" for t in texts], bool)
        self.intervals, self.texts = intervals[spoken], np.array(texts, object)[spoken]

    def between(self, start: float, end: float) -> tuple[Word, ...]:
        """The words of a segment, clipped to it, with times from its start."""
        rows, inside = cut(self.intervals, start, end)
        times = (inside - start).tolist()
        return tuple(Word(text, begin, stop) for text, (begin, stop) in zip(self.texts[rows].tolist(), times, strict=True))


@dataclass
class _Notes:
    """Things that are the same with many clips: one problem for each, with how many and the first."""

    found: dict[tuple[Kind, str], list[str]] = field(default_factory=dict)

    def add(self, kind: Kind, what: str, where: str, n: int = 1) -> None:
        self.found.setdefault((kind, what), []).extend([where] * n)

    def report(self, where: str, report: Report) -> None:
        for (kind, what), places in self.found.items():
            first = list(dict.fromkeys(places))
            report(Problem(kind, where, f"{what}: {len(places)} ({', '.join(first[:3])}{', ...' if len(first) > 3 else ''})"))
