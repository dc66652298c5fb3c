"""RAVDESS (Livingstone and Russo 2018): everything but the recording is in the file's name.

Seven two-digit fields: modality-channel-emotion-intensity-statement-repetition-actor. Folds are the published,
speaker-independent ones of Luna-Jimenez et al. 2021. The spoken words are known from the statement; they are the same
for every emotion, so text would carry none of it, and no transcript is set.

Each performance is published as audio-video, video-only and audio-only. These are twins, and at most one is a clip.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Literal, get_args

from pipeline.clip import Clip
from pipeline.corpora.base import Corpus, Count, Problem, Report
from pipeline.corpora.listing import media_files

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
STATEMENTS = ("Kids are talking by the door.", "Dogs are sitting by the door.")
FOLDS = ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22))
MODALITIES = {"01": "audio-video", "02": "video-only", "03": "audio-only"}
PREFERRED = ("01", "03", "02")  # of twins: both modalities, else the voice, which more streams read
CHANNELS = {"01": "speech", "02": "song"}
N_EMOTIONS = {"01": 8, "02": 6}  # the first so many
NEVER_SANG = (18, "02")
NAME = re.compile(r"(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])", re.ASCII)

Recordings = Literal["any", "audio-video", "video-only", "audio-only"]
Channel = Literal["speech", "song", "both"]


@dataclass(frozen=True)
class Ravdess(Corpus):
    """See the module.

    modality: which files become clips. any takes, of each performance, audio-video, else audio-only, else video-only.
    channel: speech, song, or both. Song has six of the eight emotions, so with both, hearing that somebody sings rules two
    of them out; published results are on speech.
    """

    modality: Recordings = "any"
    channel: Channel = "speech"

    name: ClassVar[str] = "ravdess"
    licence: ClassVar[str] = "CC BY-NC-SA 4.0"
    holds: ClassVar[str] = "folder of WAV, MP4 or other recordings under their published names"

    def __post_init__(self) -> None:
        for option, kind in (("modality", Recordings), ("channel", Channel)):
            if getattr(self, option) not in get_args(kind):
                expected = ", ".join(get_args(kind))
                raise ValueError(f"ravdess.{option} is {getattr(self, option)!r}: expected one of {expected}")

    def clips(self, source: str, report: Report) -> Iterator[Clip]:
        """A clip for each performance. A media file whose name is not one of RAVDESS's is reported, and no clip.

        A clip's id is its file's name, so it says of which modality it is. Raises ValueError where there is no clip.
        """
        best: dict[str, tuple[int, str, str]] = {}
        left_out: Counter[str] = Counter()
        known = 0
        for relative, address in media_files(source, report):
            stem = relative.rpartition("/")[2].rpartition(".")[0]
            if NAME.fullmatch(stem) is None:
                what = f"no RAVDESS name: expected seven two-digit fields such as 03-01-06-01-02-01-12, found {stem!r}"
                report(Problem("unexpected", relative, what))
                continue
            modality, performance = stem[:2], stem[3:]
            channel = CHANNELS[performance[:2]]
            if self.channel not in ("both", channel):
                left_out[f"{channel}, and the clips are of channel={self.channel}"] += 1
                continue
            if self.modality not in ("any", MODALITIES[modality]):
                left_out[f"{MODALITIES[modality]}, and the clips are of modality={self.modality}"] += 1
                continue
            known += 1
            found = PREFERRED.index(modality), relative, address
            best[performance] = min(best.get(performance, found), found)
        reasons = [f"{n} recordings were left aside: they are {what}" for what, n in left_out.items()]
        if not best:
            raise ValueError("; ".join([f"no RAVDESS recording below {source}", *reasons]))
        if twins := known - len(best):
            reasons.append(f"{twins} recordings were left aside: the same performance is there as {', '.join(_kinds(best))}")
        for reason in reasons:
            report(Problem("note", source, reason))
        for _, relative, address in sorted(best.values(), key=lambda found: found[1]):
            if relative.rpartition("/")[2].rpartition(".")[0][3:] not in PUBLISHED:
                report(Problem("unexpected", relative, "RAVDESS has no such performance: taken as its name says"))
            yield _clip(relative.rpartition("/")[2].rpartition(".")[0], address)

    def counts(self, clips: Sequence[Clip]) -> list[Count]:
        """What is there, against the published performances: 1,440 of speech and 1,012 of song."""
        counts = [Count("clips", len(clips)), Count("actors", len({c.speaker for c in clips}), 24)]
        for channel in self._channels(clips):
            here = [c for c in clips if CHANNELS[channel] == c.attributes["channel"]]
            published = [name.split("-") for name in PUBLISHED if name.startswith(channel)]
            counts.append(Count(CHANNELS[channel], len(here), len(published)))
            of = Counter(c.attributes["modality"] for c in here)
            counts += [Count(f"{CHANNELS[channel]}, {kind}", n) for kind, n in sorted(of.items())]
            found, expected = Counter(c.emotion for c in here), Counter(EMOTIONS[int(fields[1]) - 1] for fields in published)
            counts += [Count(f"{CHANNELS[channel]}, {emotion}", found[emotion], n) for emotion, n in expected.items()]
        return counts

    def missing(self, clips: Sequence[Clip]) -> Sequence[str]:
        """Performances of the channels that are there, named as most of the clips are."""
        there = {c.clip_id[3:] for c in clips}
        prefix = max(PREFERRED, key=Counter(c.clip_id[:2] for c in clips).__getitem__)
        channels = self._channels(clips)
        return [f"{prefix}-{name}" for name in PUBLISHED if name[:2] in channels and name not in there]

    def owns(self, name: str) -> bool:
        return NAME.fullmatch(name.rpartition(".")[0]) is not None

    @staticmethod
    def _channels(clips: Sequence[Clip]) -> list[str]:
        return sorted({c.clip_id[3:5] for c in clips})


def _clip(name: str, address: str) -> Clip:
    modality, channel, emotion, intensity, statement, repetition, actor = name.split("-")
    return Clip(
        clip_id=name,
        uri=address,
        speaker=actor,
        emotion=EMOTIONS[int(emotion) - 1],
        fold=next(str(k) for k, actors in enumerate(FOLDS, 1) if int(actor) in actors),
        attributes={
            "modality": MODALITIES[modality],
            "channel": CHANNELS[channel],
            "intensity": "normal" if intensity == "01" else "strong",
            "statement": STATEMENTS[int(statement) - 1],
            "repetition": repetition,
            "sex": "male" if int(actor) % 2 else "female",
        },
    )


def _kinds(best: dict[str, tuple[int, str, str]]) -> list[str]:
    """How many of the chosen recordings are of which modality."""
    of = Counter(MODALITIES[PREFERRED[rank]] for rank, _, _ in best.values())
    return [f"{kind} ({n})" for kind, n in of.most_common()]


def _published() -> Iterator[str]:
    """The performances, named without their modality: 60 a speaker, 44 a singer."""
    twice = ("01", "02")
    for actor, channel in product(range(1, 25), CHANNELS):
        for emotion in range(1, 1 + N_EMOTIONS[channel]) if (actor, channel) != NEVER_SANG else ():
            normal_or_strong = twice if emotion > 1 else ("01",)  # neutral has no strong intensity
            for intensity, statement, repetition in product(normal_or_strong, twice, twice):
                yield f"{channel}-{emotion:02d}-{intensity}-{statement}-{repetition}-{actor:02d}"


PUBLISHED = dict.fromkeys(_published())
