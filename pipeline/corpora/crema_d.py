"""CREMA-D (Cao et al. 2014): 91 actors, 12 sentences, 6 emotions; and how raters heard and saw them.

A file's name says all: actor_sentence_emotion_level, such as 1001_DFA_ANG_XX. The votes are in tabulatedVotes.csv, whose
first column is the condition (1 voice only, 2 face only, 3 both) times 100,000, plus the clip's number.

Every actor says one sentence (IEO) with each emotion at three levels, and the others at one that nobody set; 20 of the
clips that this would make were never published. The corpus has no split of its own.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from pipeline.clip import Clip
from pipeline.corpora.base import Corpus, Count, Problem, Report
from pipeline.corpora.listing import media_files
from pipeline.corpora.ratings import majority, shares
from pipeline.corpora.reading import listed, read_text
from pipeline.files import Folder

EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}
SENTENCES = {
    "IEO": "It's eleven o'clock",
    "TIE": "That is exactly what happened",
    "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about",
    "TAI": "The airplane is almost full",
    "MTI": "Maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock",
    "ITH": "I think I have a doctor's appointment",
    "DFA": "Don't forget a jacket",
    "ITS": "I think I've seen this before",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
ACTORS = tuple(str(actor) for actor in range(1001, 1092))
NEVER_PUBLISHED = {
    *(f"1008_WSI_{emotion}_XX" for emotion in EMOTIONS),
    *(f"1009_MTI_{emotion}_XX" for emotion in EMOTIONS),
    *(f"1019_ITH_{emotion}_XX" for emotion in EMOTIONS),
    "1002_TIE_NEU_XX",
    "1076_ITS_NEU_XX",
}
# Copies of the corpus hold 1040_ITH_SAD_X, which is 1040_ITH_SAD_XX.
NAME = re.compile(rf"({'|'.join(ACTORS)})_({'|'.join(SENTENCES)})_({'|'.join(EMOTIONS)})_({'|'.join(LEVELS)}|X)", re.ASCII)

LOSSLESS_SUFFIXES = (".wav", ".flac", ".aif", ".aiff", ".caf", ".w64", ".au")
LOSSY_SUFFIXES = (".aac", ".amr", ".m4a", ".mka", ".mp3", ".oga", ".ogg", ".opus", ".wma")

VOTES = "tabulatedVotes.csv"
SHOWN = {"1": "audio", "2": "vision", "3": "both"}
VOTED = {"A": "anger", "D": "disgust", "F": "fear", "H": "happy", "N": "neutral", "S": "sad"}
DEMOGRAPHICS = "VideoDemographics.csv"

Labels = Literal["acted", "majority", "soft"]
Shown = Literal["both", "audio", "vision"]
Medium = Literal["any", "video", "audio"]
Votes = dict[str, dict[str, dict[str, float]]]
"""Of each clip, by what raters were shown: how many chose which emotion."""


@dataclass(frozen=True)
class CremaD(Corpus):
    """See the module.

    labels: what a clip's emotion is. acted: what the actor was asked for. majority: what most raters chose, none where
    there is a tie. soft: the same, and the raters' shares beside it; a tie has its shares and no emotion.
    votes: of the raters who were shown what. ratings: address of tabulatedVotes.csv; by default it is looked for in the
    source and in its folder processedResults. media: which files become clips: any takes the video, else the audio.
    """

    labels: Labels = "acted"
    votes: Shown = "both"
    ratings: str | None = None
    media: Medium = "any"

    name: ClassVar[str] = "crema_d"
    licence: ClassVar[str] = "ODbL 1.0, contents DbCL 1.0"
    holds: ClassVar[str] = "folder of FLV, WAV, MP3 or other recordings under their published names"

    def __post_init__(self) -> None:
        for option, kind in (("labels", Labels), ("votes", Shown), ("media", Medium)):
            if getattr(self, option) not in get_args(kind):
                expected = ", ".join(get_args(kind))
                raise ValueError(f"crema_d.{option} is {getattr(self, option)!r}: expected one of {expected}")

    def clips(self, source: str, report: Report) -> Iterator[Clip]:
        """A clip for each name, ordered by name. A media file whose name is not one of CREMA-D's is reported, and no clip.

        Raises ValueError where there is no clip, and where labels need votes that can't be found or read.
        """
        recordings = self._recordings(source, report)
        demographics = _demographics(source, report)
        votes = self._votes(source, report)
        ties: list[str] = []
        unrated: list[str] = []
        for clip_id, (relative, uri) in sorted(recordings.items()):
            actor, sentence, emotion, _ = clip_id.split("_")
            of_clip = votes.get(clip_id)
            label: str | None = EMOTIONS[emotion]
            soft = None
            if self.labels != "acted":
                chosen = (of_clip or {}).get(self.votes)
                label = majority(chosen) if chosen else None
                soft = shares(chosen) if chosen and self.labels == "soft" else None
                if label is None:
                    (ties if chosen else unrated).append(clip_id)
            yield Clip(
                clip_id=clip_id,
                uri=uri,
                speaker=actor,
                transcript=SENTENCES[sentence],
                emotion=label,
                shares=soft,
                votes=of_clip,
                attributes={
                    "modality": "audio-video" if _rank(relative) == 0 else "audio-only",
                    **_acted(clip_id),
                    **demographics.get(actor, {}),
                },
            )
        if ties:
            report(Problem("note", VOTES, f"{len(ties)} clips have no emotion, their votes are tied: such as {listed(ties)}"))
        if unrated:
            what = f"{len(unrated)} clips have no emotion, no vote ({self.votes}): such as {listed(unrated)}"
            report(Problem("note", VOTES, what))

    def counts(self, clips: Sequence[Clip]) -> list[Count]:
        """What is there, against the published 7,442 clips; emotions are the acted ones."""
        counts = [
            Count("clips", len(clips), len(PUBLISHED)),
            Count("actors", len({c.speaker for c in clips}), len(ACTORS)),
            Count("clips with an emotion", sum(c.emotion is not None for c in clips)),
            Count("clips with votes", sum(c.votes is not None for c in clips)),
        ]
        for attribute in ("acted", "level", "sentence"):
            found = Counter(c.attributes[attribute] for c in clips)
            expected = Counter(_acted(name)[attribute] for name in PUBLISHED)
            counts += [Count(f"{attribute} {value}", found[value], n) for value, n in sorted(expected.items())]
        return counts

    def missing(self, clips: Sequence[Clip]) -> Sequence[str]:
        return sorted(set(PUBLISHED) - {c.clip_id for c in clips})

    def owns(self, name: str) -> bool:
        return NAME.fullmatch(os.path.splitext(name)[0]) is not None

    def _recordings(self, source: str, report: Report) -> dict[str, tuple[str, str]]:
        """Of each clip id, the one recording that is used, as (path relative to the source, address)."""
        best: dict[str, tuple[int, str, str]] = {}
        known = left_out = 0
        for relative, address in media_files(source, report):
            stem = os.path.splitext(relative.rpartition("/")[2])[0]
            if NAME.fullmatch(stem) is None:
                what = f"no CREMA-D name: expected actor_sentence_emotion_level such as 1001_DFA_ANG_XX, found {stem!r}"
                report(Problem("unexpected", relative, what))
                continue
            known += 1
            rank = _rank(relative)
            if (self.media == "video" and rank > 0) or (self.media == "audio" and rank == 0):
                left_out += 1
                continue
            clip_id = f"{stem.rpartition('_')[0]}_XX" if stem.endswith("_X") else stem
            best[clip_id] = min(best.get(clip_id, (rank, relative, address)), (rank, relative, address))
        if not best:
            found = f"; {known} recordings are there, but not of media={self.media}" if known else ""
            raise ValueError(f"no CREMA-D recording below {source}{found}")
        if left_out:
            report(Problem("note", source, f"{left_out} recordings were left aside: the clips are of media={self.media}"))
        if twins := known - left_out - len(best):
            what = f"{twins} recordings were left aside, other forms of the same clips: video is taken before audio"
            report(Problem("note", source, what))
        for clip_id, (_, relative, _) in best.items():
            if clip_id not in relative:
                report(Problem("note", relative, f"taken for the clip {clip_id}"))
            if clip_id not in PUBLISHED:
                report(Problem("unexpected", relative, "CREMA-D has no such clip: taken as its name says"))
        return {clip_id: (relative, address) for clip_id, (_, relative, address) in best.items()}

    def _votes(self, source: str, report: Report) -> Votes:
        if self.ratings is not None:
            return read_votes(os.path.expanduser(self.ratings))
        folder = Folder(source.rstrip("/"))
        places = [f"{folder.url}/{VOTES}", f"{folder.url}/processedResults/{VOTES}"]
        address = next((f"{at.url}/{VOTES}" for at in (folder, folder.at("processedResults")) if at.exists(VOTES)), None)
        if address is None:
            if self.labels == "acted":
                return {}
            raise ValueError(
                f"labels={self.labels} need the raters' votes: no {' and no '.join(places)}; say where they are with "
                f"crema_d.ratings=.../{VOTES}"
            )
        try:
            return read_votes(address)
        except ValueError as e:
            if self.labels != "acted":
                raise
            report(Problem("broken", address, f"not used: {e}"))
            return {}


def read_votes(address: str) -> Votes:
    """The table of votes (tabulatedVotes.csv). Raises ValueError, naming the line, where it is not one."""
    votes: Votes = {}
    for where, row in _rows(address, ("", *VOTED, "fileName")):
        number, name = row[""], row["fileName"]
        shown = SHOWN.get(number[:1]) if re.fullmatch(r"[0-9]{6}", number) else None
        if shown is None:
            raise ValueError(f"{where}: the first column is {number!r}, expected six digits, the first 1, 2 or 3")
        if NAME.fullmatch(name) is None:
            raise ValueError(f"{where}: fileName is {name!r}, expected a clip such as 1001_DFA_ANG_XX")
        if bad := next((letter for letter in VOTED if not re.fullmatch(r"[0-9]{1,6}", row[letter])), None):
            raise ValueError(f"{where}: {bad} is {row[bad]!r}, expected a number of votes")
        of_clip = votes.setdefault(f"{name}X" if name.endswith("_X") else name, {})
        if shown in of_clip:
            raise ValueError(f"{where}: {name} comes twice with the votes on {shown}")
        of_clip[shown] = {emotion: float(row[letter]) for letter, emotion in VOTED.items()}
    if not votes:
        raise ValueError(f"{address} has no row")
    given = {clip: {shown: of for shown, of in rated.items() if sum(of.values())} for clip, rated in votes.items()}
    return {clip: rated for clip, rated in given.items() if rated}


def _demographics(source: str, report: Report) -> dict[str, dict[str, str]]:
    """Of each actor, sex, age, race and ethnicity, where the source has the table and it can be read."""
    folder = Folder(source.rstrip("/"))
    if not folder.exists(DEMOGRAPHICS):
        return {}
    address = f"{folder.url}/{DEMOGRAPHICS}"
    try:
        rows = list(_rows(address, ("ActorID", "Sex", "Age", "Race", "Ethnicity")))
    except ValueError as e:
        report(Problem("broken", address, f"not used: {e}"))
        return {}
    return {
        row["ActorID"]: {
            "sex": row["Sex"].lower(),
            "age": row["Age"],
            "race": row["Race"],
            "ethnicity": row["Ethnicity"],
        }
        for _, row in rows
    }


def _rows(address: str, needed: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a CSV that has the given columns, each with its place for messages. Raises ValueError where it has not."""
    reader = csv.DictReader(io.StringIO(read_text(address), newline=""), restval="")
    try:
        has = reader.fieldnames or ()
        if lacks := [column or "without a name" for column in needed if column not in has]:
            raise ValueError(f"{address}: no column {', '.join(lacks)}, found {listed(has) or 'an empty file'}")
        for row in reader:
            yield f"{address}, line {reader.line_num}", row
    except csv.Error as e:
        raise ValueError(f"{address}, line {reader.line_num}: {e}") from e


def _rank(relative: str) -> int:
    """Which of a clip's recordings is used, the lowest: 0 video, 1 sound as it was, 2 compressed sound."""
    suffix = os.path.splitext(relative)[1].lower()
    return 1 if suffix in LOSSLESS_SUFFIXES else 2 if suffix in LOSSY_SUFFIXES else 0


def _acted(name: str) -> dict[str, str]:
    """Attributes that are in a clip's name."""
    _, sentence, emotion, level = name.split("_")
    return {"acted": EMOTIONS[emotion], "level": LEVELS[level], "sentence": sentence}


def _published() -> Iterator[str]:
    for actor in ACTORS:
        for sentence in SENTENCES:
            for emotion in EMOTIONS:
                for level in ("LO", "MD", "HI") if sentence == "IEO" and emotion != "NEU" else ("XX",):
                    if (name := f"{actor}_{sentence}_{emotion}_{level}") not in NEVER_PUBLISHED:
                        yield name


PUBLISHED = dict.fromkeys(_published())
