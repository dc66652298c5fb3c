"""A small labelled corpus of talking-face clips, made on the spot: real media to try every part of the system on.

Its labels are true by construction: the emotion is what the generator was told to show. Accuracy on this corpus says
that the parts fit together and nothing else. Never report it as emotion recognition.

Four emotions, three binary cues, one in each modality. Each cue alone leaves two emotions open; any two name the emotion:

                 voice      face       words
                 (arousal)  (valence)  (topic)
    happy        high       positive   people
    angry        high       negative   things
    sad          low        negative   people
    calm         low        positive   things

- voice: pitch, pitch range and loudness. The speaking rate is drawn without regard to the label, or the mouth would tell.
- face: smile or lowered mouth corners and moved brows. The mouth opens with the loudness relative to the clip's own peak,
  so that the face does not tell arousal.
- words: nouns of people and feasts, or of machines and roads, in sentences that both share. No two speakers share a noun,
  so that a model which heard some speakers can't know the nouns of others by their sound; word vectors can.

Cues differ in strength from clip to clip and never contradict the label. Everything follows from the seed.

The voice is espeak-ng (GPL-3.0), called through its own library, to make demo audio only. The portrait is public domain
(NASA). Both are in the optional extra `demo`.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import ffmpeg
import numpy as np
import numpy.typing as npt

from pipeline.clip import Word
from pipeline.corpora.made_face import SIZE, Image, Look, Sway, TalkingFace, portrait
from pipeline.corpora.made_speech import speak
from pipeline.media import ffmpeg_path
from pipeline.streams.face import FaceLandmarker, landmarker_bundle

GENERATOR = 1  # raise it whenever the same parameters would make other clips
FPS = 25
MANIFEST, PARAMETERS = "manifest.csv", "made.json"
MANIFEST_COLUMNS = ("clip_id", "path", "speaker", "emotion", "transcript", "words")


class Cues(NamedTuple):
    """What each modality shows of an emotion."""

    arousal: Literal["high", "low"]
    valence: Literal["positive", "negative"]
    topic: Literal["people", "things"]


EMOTIONS: dict[str, Cues] = {
    "happy": Cues("high", "positive", "people"),
    "angry": Cues("high", "negative", "things"),
    "sad": Cues("low", "negative", "people"),
    "calm": Cues("low", "positive", "things"),
}

# Variants of espeak-ng, one a speaker. Those with "breath" (f2, f3, f5, ...) are left out: they read memory that was never
# written, and sound different each time.
VOICES = ("m3", "f1", "m1", "f4", "m7", "linda", "m5", "steph", "m2", "Annie", "m6", "m4")

# Speaker i has every twelfth noun, from the i-th on.
NOUNS: dict[str, tuple[str, ...]] = {
    "people": tuple(
        """
        mother father sister brother daughter uncle cousin husband wife baby child children
        parents family friend friends bride groom wedding birthday party holiday christmas gift
        guests dance song hug kiss smile laughter tears heart love memory childhood
        nursery toys doll lullaby neighbor twins nephew niece grandson grandma grandpa toddler
        kids boy girl lady sweetheart boyfriend girlfriend reunion picnic feast dinner grandmother
        grandfather son aunt lover companion playmate mom dad infant widow bridesmaid honeymoon
        """.split()
    ),
    "things": tuple(
        """
        engine machine motor pump valve pipe cable wire battery turbine wrench hammer
        drill saw bolt screw ladder printer computer keyboard monitor server router folder
        invoice spreadsheet desk office highway road bridge tunnel traffic truck tractor crane
        asphalt gravel pavement concrete steel copper cement brick boiler furnace heater gearbox
        clutch brake tire exhaust warehouse pressure humidity forecast fog thermometer drizzle sensor
        circuit transistor switch socket plumbing lever pulley axle piston cylinder generator compressor
        """.split()
    ),
}
SENTENCES = (  # without pairs of words that espeak-ng runs together, such as "with the": they have one time for both
    "we saw the {} and the {} near the {}",
    "then the {} and the {} left the {}",
    "now the {} is beside the {} and {}",
    "so the {} came before the {} and {}",
    "they found the {} and {} behind the {}",
    "yes the {} was there and the {} and {}",
    "well the {} came after the {} and {}",
    "you know the {} and the {} or the {}",
)


@dataclass(frozen=True, slots=True)
class _ClipPlan:
    clip_id: str
    speaker: str
    emotion: str
    transcript: str
    voice: str
    pitch: int  # 0 to 100, as espeak-ng counts
    pitch_range: int
    rate: int  # words a minute
    level: float  # RMS of the speech, decibels below full scale
    expression: dict[str, float]  # amounts of the face's movements
    seed: tuple[int, ...]  # of what is left to chance: pauses, head, blinks


def make_corpus(
    folder: Path,
    *,
    speakers: int = 8,
    clips_per_speaker: int = 12,
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make the corpus and return the path of its manifest, a CSV with one row a clip.

    Columns: clip_id, path (relative to the manifest), speaker, emotion, transcript, and words, which is JSON:
    [[word, start, end], ...] in seconds from the clip's start. Clips are MP4 (H.264, AAC), about 2 to 3 s at 25 frames a
    second, all four emotions equally often for each speaker. A folder that already holds this very corpus is left as it
    is. progress(done, total) is called after each clip.

    Raises ValueError for numbers that can't be had, ModuleNotFoundError where the extra `demo` is not installed.
    """
    if not 1 <= speakers <= len(VOICES):
        raise ValueError(f"speakers is {speakers}: expected 1 to {len(VOICES)}, each needs a voice and nouns of its own")
    if clips_per_speaker < 1 or clips_per_speaker % len(EMOTIONS):
        raise ValueError(f"clips_per_speaker is {clips_per_speaker}: expected a multiple of {len(EMOTIONS)}, the emotions")
    parameters = {"generator": GENERATOR, "speakers": speakers, "clips_per_speaker": clips_per_speaker, "seed": seed}
    manifest = folder / MANIFEST
    if manifest.is_file() and _read_json(folder / PARAMETERS) == parameters:
        return manifest

    photograph = portrait()
    landmarker = FaceLandmarker(landmarker_bundle()[0])
    cv2.setNumThreads(1)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    manifest.unlink(missing_ok=True)  # it says "done", which is no longer so
    faces = [TalkingFace(_look(seed, i), photograph, landmarker) for i in range(speakers)]
    plans = [(plan, faces[i]) for i in range(speakers) for plan in _plan_speaker(seed, i, clips_per_speaker)]

    # Threads are enough: OpenCV and ffmpeg, which do the work, run outside Python's lock.
    with ThreadPoolExecutor(workers) as pool:
        clips = [pool.submit(_make_clip, plan, face, folder / "clips" / f"{plan.clip_id}.mp4") for plan, face in plans]
        try:
            for done, clip in enumerate(as_completed(clips), 1):
                clip.result()
                if progress:
                    progress(done, len(clips))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

    (folder / PARAMETERS).write_text(json.dumps(parameters) + "\n")
    partial = manifest.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(MANIFEST_COLUMNS)
        for (plan, _), clip in zip(plans, clips, strict=True):
            words = json.dumps([[w.text, round(w.start, 3), round(w.end, 3)] for w in clip.result()])
            table.writerow((plan.clip_id, f"clips/{plan.clip_id}.mp4", plan.speaker, plan.emotion, plan.transcript, words))
    os.replace(partial, manifest)
    return manifest


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _look(seed: int, speaker: int) -> Look:
    rng = np.random.default_rng((seed, speaker, 0))
    return Look(
        stretch=rng.uniform(0.88, 1.14),
        mirrored=bool(rng.integers(2)),
        hue=rng.uniform(-14.0, 14.0),
        contrast=rng.uniform(0.85, 1.15),
        brightness=rng.uniform(-22.0, 22.0),
        shade=int(rng.integers(40, 216)),
    )


def _plan_speaker(seed: int, speaker: int, n_clips: int) -> list[_ClipPlan]:
    rng = np.random.default_rng((seed, speaker, 1))
    name = f"speaker{speaker + 1:02d}"
    own_pitch = rng.uniform(-6.0, 6.0)
    nouns = {topic: words[speaker :: len(VOICES)] for topic, words in NOUNS.items()}
    plans = []
    for n in range(n_clips):
        emotion = list(EMOTIONS)[n % len(EMOTIONS)]
        cues = EMOTIONS[emotion]
        arousal = rng.uniform(0.6, 1.0) * (1 if cues.arousal == "high" else -1)
        words = rng.choice(nouns[cues.topic], size=3, replace=False)
        plans.append(
            _ClipPlan(
                clip_id=f"{name}_{emotion}_{n // len(EMOTIONS) + 1:02d}",
                speaker=name,
                emotion=emotion,
                transcript=SENTENCES[rng.integers(len(SENTENCES))].format(*words),
                voice=f"en-us+{VOICES[speaker]}",
                pitch=round(50 + own_pitch + 22 * arousal + rng.uniform(-4, 4)),
                pitch_range=round(50 + 35 * arousal),
                rate=int(rng.integers(190, 236)),
                level=-23 + 6 * arousal + rng.uniform(-1.5, 1.5),
                expression=_expression(rng, cues.valence),
                seed=(seed, speaker, 2, n),
            )
        )
    return plans


def _expression(rng: np.random.Generator, valence: str) -> dict[str, float]:
    strength = rng.uniform(0.6, 1.0)
    if valence == "positive":
        return {"smile": 0.08 * strength, "brows_down": rng.uniform(-0.02, 0.02)}
    inner = rng.uniform(0.0, 1.0)  # brows lowered, or drawn up in the middle, or some of both
    return {"smile": -0.2 * strength, "brows_down": 0.12 * strength * (1 - inner), "inner_brows_up": 0.1 * strength * inner}


def _make_clip(plan: _ClipPlan, face: TalkingFace, path: Path) -> tuple[Word, ...]:
    """Make one clip's file; returns its words with their times."""
    rng = np.random.default_rng(plan.seed)
    speech = speak(plan.transcript, plan.voice, rate=plan.rate, pitch=plan.pitch, pitch_range=plan.pitch_range)
    before, after = rng.uniform(0.08, 0.2), rng.uniform(0.1, 0.25)  # seconds of silence
    n_before = round(before * speech.rate)
    n_frames = int(np.ceil((before + len(speech.samples) / speech.rate + after) * FPS))

    samples = np.zeros(n_frames * speech.rate // FPS)
    samples[n_before : n_before + len(speech.samples)] = speech.samples
    loudness = np.sqrt((samples.reshape(n_frames, -1) ** 2).mean(1))  # one a video frame
    gain = 10 ** (plan.level / 20) / np.sqrt((speech.samples.astype(np.float64) ** 2).mean())
    samples *= min(gain, 0.98 / np.abs(samples).max())
    samples += rng.normal(0.0, 1e-3, len(samples))  # the room

    mouth = np.convolve(loudness / loudness.max(), (0.25, 0.5, 0.25), mode="same") * rng.uniform(0.12, 0.16)
    frames = _frames(face, plan.expression, mouth, rng)
    _encode(path, frames, samples.astype(np.float32), speech.rate)
    offset = n_before / speech.rate
    return tuple(Word(w.text, w.start + offset, w.end + offset) for w in speech.words)


def _frames(face: TalkingFace, expression: dict[str, float], mouth: npt.NDArray[np.float64], rng: np.random.Generator) -> Image:
    """The clip's pictures, (n_frames, SIZE, SIZE, 3): the expression sets in, the head sways, the eyes blink."""
    n = len(mouth)
    seconds = np.arange(n) / FPS
    onset = np.clip(0.3 + seconds / 0.4, 0.0, 1.0)

    def slowly(size: float) -> npt.NDArray[np.float64]:
        return size * rng.uniform(0.5, 1.0) * np.sin(2 * np.pi * (rng.uniform(0.2, 0.6) * seconds + rng.uniform()))

    flutter = 1 + slowly(0.12)
    sways = zip(slowly(2.5), slowly(4.0), slowly(3.0), 1 + slowly(0.02), strict=True)
    blink = 0.1 * np.clip(1.0 - np.abs(seconds - rng.uniform(0.2, 3.0)) / 0.1, 0.0, 1.0)
    frames = np.empty((n, SIZE, SIZE, 3), np.uint8)
    for i, sway in enumerate(sways):
        movements = {name: amount * onset[i] * flutter[i] for name, amount in expression.items()}
        frames[i] = face.render({**movements, "open": mouth[i], "blink": blink[i]}, Sway(*sway))
    return frames


def _encode(path: Path, frames: Image, samples: npt.NDArray[np.float32], rate: int) -> None:
    with tempfile.NamedTemporaryFile(suffix=".f32le") as sound:
        samples.astype("<f4").tofile(sound)
        sound.flush()
        video = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="rgb24", s=f"{SIZE}x{SIZE}", r=FPS)
        audio = ffmpeg.input(sound.name, format="f32le", ar=rate, ac=1)
        output = ffmpeg.output(
            video,
            audio,
            str(path),
            vcodec="libx264",
            preset="veryfast",
            crf=20,
            pix_fmt="yuv420p",
            acodec="aac",
            audio_bitrate="96k",
            threads=1,
            fflags="+bitexact",  # the same clip is the same file: no date, no version of the encoder
            loglevel="error",
        )
        try:
            ffmpeg.run(output, cmd=ffmpeg_path(), input=frames.data, capture_stderr=True, overwrite_output=True)
        except ffmpeg.Error as e:
            raise RuntimeError(f"ffmpeg can't write {path}: {e.stderr.decode('utf-8', 'replace').strip()}") from e
