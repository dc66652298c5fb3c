"""A made task with a known answer, as a store to train on: python -m jobs.made_task TASK --out STORE"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import typer
from rich.table import Table
from sklearn.linear_model import LogisticRegression

from jobs._cli import absolute, app, console, user_errors
from pipeline.clip import Clip, Modality
from pipeline.files import Folder, check_buckets
from pipeline.store import SHARD_SIZE, ClipRow, Store
from pipeline.streams.base import Extractor, Features
from rrnn import made_task, metrics

CORPUS = "made_task"
CLIPS = 10000
CLIPS_A_SPEAKER = 10
NOTE = "made_task.json"
FOLDS = ("train", "train", "train", "valid", "test")
"""Of the speakers in turn."""


@dataclass(frozen=True)
class MadeTask:
    """All that a made store depends on, beside the code."""

    task: str
    clips: int = CLIPS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task not in made_task.TASKS:
            raise ValueError(f"unknown task {self.task!r}: expected one of {', '.join(made_task.TASKS)}")
        fewest = CLIPS_A_SPEAKER * len(FOLDS)
        if self.clips < fewest:
            raise ValueError(f"{self.clips} clips don't give each fold a speaker: expected {fewest} or more")
        if self.seed < 0:
            raise ValueError(f"the seed is {self.seed}: expected 0 or more")

    def generate(self) -> tuple[list[made_task.Clip], npt.NDArray[np.int64]]:
        return made_task.TASKS[self.task].generate(self.clips, self.seed)

    def manifest(self, labels: npt.NDArray[np.int64]) -> list[Clip]:
        """A row for each clip: its class, and a speaker who is in one fold."""
        rows = []
        for i, label in enumerate(labels):
            speaker = i // CLIPS_A_SPEAKER
            rows.append(
                Clip(
                    clip_id=f"{i:06d}",
                    uri=f"{CORPUS}/{self.task}/{self.seed}/{i:06d}",
                    speaker=f"speaker{speaker:04d}",
                    emotion=made_task.CLASSES[label],
                    fold=FOLDS[speaker % len(FOLDS)],
                )
            )
        return rows


@dataclass(frozen=True)
class MadeStream(Extractor):
    """What a made stream is, for the store to note and compare. There are no recordings that it could be extracted from."""

    task: str
    strength: float
    lengths: dict[str, tuple[int, int]]
    clips: int
    seed: int

    version = "1"
    licence = "made by a program"

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"{self.name}{j}" for j in range(made_task.COLUMNS[self.name]))


class MadeAudio(MadeStream):
    name, frame_shift = "audio", 0.05
    modality: ClassVar[Modality] = "audio"


class MadeVision(MadeStream):
    name, frame_shift = "vision", 0.125
    modality: ClassVar[Modality] = "vision"


class MadeText(MadeStream):
    name, frame_shift = "text", 0.3
    modality: ClassVar[Modality] = "text"


def make_store(config: MadeTask, url: str) -> Store:
    """Write the task's clips as extraction leaves them; does only what is missing. Raises ValueError, before it writes
    anything, where a store of something else is there."""
    task = made_task.TASKS[config.task]
    streams = [
        stream(config.task, task.strength, dict(task.lengths), config.clips, config.seed)
        for stream in (MadeAudio, MadeVision, MadeText)
    ]
    _refuse_other(config, Folder(url.rstrip("/")))
    store = Store.create(url, CORPUS, SHARD_SIZE)
    store.folder.write(NOTE, json.dumps(asdict(config)).encode())
    for stream in streams:
        store.begin_stream(stream)
    store.sweep()
    sequences, labels = config.generate()
    store.add_clips(config.manifest(labels))
    for stream in streams:
        done = store.done(stream.name)
        for shard in store.shards():
            if shard not in done:
                clips = store.clips(shard)
                rows = [_row(stream, clip, sequences[int(clip.clip_id)]) for clip in clips]
                store.write_features(stream, shard, clips, rows)
    return store


def _refuse_other(config: MadeTask, folder: Folder) -> None:
    """Raise ValueError where the store is not of this made task."""
    if folder.exists(NOTE):
        then = json.loads(folder.read(NOTE))
        different = [f"{k} was {then.get(k)}, now {now}" for k, now in asdict(config).items() if then.get(k) != now]
        if different:
            raise ValueError(f"{folder.url} holds another made task ({'; '.join(different)}): choose another --out")
    elif folder.exists("store.json"):
        raise ValueError(f"{folder.url} holds a store that is no made task: choose another --out")


def _row(stream: MadeStream, clip: Clip, sequences: made_task.Clip) -> ClipRow:
    assert stream.frame_shift is not None
    x_KF = sequences[stream.name]
    times = stream.frame_shift * (np.arange(len(x_KF), dtype=np.float64) + 0.5)
    return ClipRow(clip.clip_id, "ok", None, Features(x_KF, times))


def references(config: MadeTask) -> dict[str, dict[str, float]]:
    """Accuracy, uar and cross-entropy on the test clips, by who answers.

    "Bayes-optimal": the exact posterior, which nothing beats in the long run; "expected": what it is right about in the long
    run, by its own account of these clips. "audio alone" (and so on): the same, of who has no other
    stream. "averages": logistic regression on each stream's average over time. "naive": always the commonest class.
    """
    task = made_task.TASKS[config.task]
    sequences, labels = config.generate()
    folds = np.array([clip.fold for clip in config.manifest(labels)])
    train, test = np.flatnonzero(folds == "train"), np.flatnonzero(folds == "test")
    found = {"Bayes-optimal": task.bayes([sequences[i] for i in test], labels[test])}
    expected = {k: found["Bayes-optimal"][f"expected_{k}"] for k in ("accuracy", "cross_entropy")}
    found["  expected"] = expected
    for s in task.lengths:
        found[f"{s} alone"] = task.bayes([{s: sequences[i][s]} for i in test], labels[test])

    means = np.stack([np.concatenate([x_KF.mean(0) for x_KF in clip.values()]) for clip in sequences])
    linear = LogisticRegression(max_iter=1000).fit(means[train], labels[train])
    found["averages"] = metrics.classification_metrics(labels[test], linear.predict_proba(means[test]))
    shares = metrics.naive_classification(labels[train], made_task.C)
    found["naive"] = metrics.classification_metrics(labels[test], np.tile(shares, (len(test), 1)))
    return found


def references_table(found: dict[str, dict[str, float]]) -> Table:
    table = Table("on the test clips", "accuracy", "cross-entropy", box=None, pad_edge=False)
    for who, figures in found.items():
        table.add_row(who, f"{figures['accuracy']:.1%}", f"{figures['cross_entropy']:.3f}")
    return table


@user_errors
def main(
    task: Annotated[str, typer.Argument(help=f"One of {', '.join(made_task.TASKS)}.")],
    out: Annotated[str, typer.Option(help="The store: a folder or a URL. One that was begun is finished.")],
    clips: Annotated[
        int, typer.Option(help="Clips in all: three fifths to train on, a fifth to stop by, a fifth to test.")
    ] = CLIPS,
    seed: Annotated[int, typer.Option(help="Another seed makes other clips of the same task.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the full configuration, and do nothing.")] = False,
) -> None:
    """Make clips of a task whose best possible accuracy is known exactly.

    The store holds sequences of three modalities, made of noise and of what the task hides in it, as jobs.extract would
    leave them: train on it with jobs.train. Then printed: the accuracy and cross-entropy that no model can beat but by
    luck, what one modality alone, averages over time, and a constant answer reach. It says nothing about emotions.

    The tasks: **average**, every frame tells a little; **sparse**, one frame a stream tells; **corrupted**, as average, but
    one stream may be noise; **conflict**, streams contradict each other and the text says which is right; **pointer**, the
    text says where in the audio to look; **chain**, the text says where in the vision it stands where in the audio to look.

    Example: python -m jobs.made_task pointer --out stores/pointer
    """
    config = MadeTask(task, clips, seed)
    if dry_run:
        made = made_task.TASKS[task]
        about = {"strength": made.strength, "lengths": dict(made.lengths), "columns": made_task.COLUMNS}
        console.print_json(json.dumps({**asdict(config), **about, "out": absolute(out)}))
        return
    check_buckets(out)
    store = make_store(config, absolute(out))
    console.print(f"{clips} clips, {len(store.shards())} shards x {len(store.streams())} streams in {out}")
    console.print(references_table(references(config)))


cli = app(main)

if __name__ == "__main__":
    cli()
