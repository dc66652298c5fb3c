"""A model of speaker-normalised clips is fed clips that are normalised alike when it scores."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.io import wavfile
from test_extract import make_store
from test_jobs import run
from trained import train_by

from jobs.score import ScoreConfig, ScoreWorker, score
from pipeline.clip import Clip
from pipeline.extract import extract_shard
from pipeline.streams.acoustic import Acoustic
from rrnn.config import Config, ModelConfig, TrainConfig
from rrnn.data import Preparation, open_store
from rrnn.normalise import Moments, Normaliser, add_up
from rrnn.run import ModelCard

RATE = 16_000


def write_clips(folder: Path, speakers: list[str], labelled: bool) -> Path:
    """Tones, low for the calm and high for the angry, each speaker on a pitch of their own."""
    folder.mkdir()
    t = np.arange(RATE // 2) / RATE
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip_id", "path", "speaker", "emotion"])
        for k, speaker in enumerate(speakers):
            for i in range(4):
                name = f"{speaker or 'nobody'}-{i}.wav"
                hertz = (100 + 40 * k) * (1.5 if i % 2 else 1.0) + i
                wavfile.write(folder / name, RATE, (6000 * np.sin(2 * np.pi * hertz * t)).astype(np.int16))
                writer.writerow([name, name, speaker, ("calm", "angry")[i % 2] if labelled else ""])
    return manifest


@pytest.mark.slow
def test_scores_are_those_of_the_run_for_its_speakers_and_say_whose_statistics_they_used(
    tmp_path: Path, ray_cluster: None
) -> None:
    write_clips(tmp_path / "clips", ["anna", "ben", "cleo", "dora"], labelled=True)
    store = make_store(tmp_path / "clips", tmp_path / "store", shard_size=3)
    for shard in store.shards():
        extract_shard(store, Acoustic(), shard)
    config = Config(ModelConfig(hidden=4), TrainConfig(epochs=2, normalise="speaker", folds=4))
    train_by(1, config, open_store(str(tmp_path / "store")), tmp_path / "run")
    tested = pl.read_parquet(tmp_path / "run/predictions.parquet").filter(pl.col("split") == "test")

    new = write_clips(tmp_path / "new", ["anna", "ben", "cleo", "dora", "eve", ""], labelled=False)
    run("score", tmp_path / "run", new, "--out", tmp_path / "scores", "--shard-size", 5)
    scores = {r["clip_id"]: r for r in pl.read_parquet(tmp_path / "scores/scores/*.parquet").to_dicts()}
    assert len(scores) == 24
    for row in tested.to_dicts():
        assert scores[row["clip_id"]]["p_angry"] == pytest.approx(row["p_angry"], abs=1e-5)
    by = {name: scores[f"{name}-0.wav"]["normalised_by"] for name in ("anna", "eve", "nobody")}
    assert by == {
        "anna": "the speaker's 4 clips in the run",
        "eve": "the speaker's 4 clips here",
        "nobody": "all clips of the training (no speaker is known)",
    }

    # Alone, a clip is its own statistics.
    alone = tmp_path / "alone.csv"
    alone.write_text(f"clip_id,path,speaker\nanna-1.wav,{tmp_path / 'new/anna-1.wav'},anna\n")
    run("score", tmp_path / "run", alone, "--out", tmp_path / "own", "--own-statistics")
    (row,) = pl.read_parquet(tmp_path / "own/scores/*.parquet").to_dicts()
    assert row["normalised_by"] == "the speaker's 1 clips here"
    assert row["p_angry"] != pytest.approx(scores["anna-1.wav"]["p_angry"], abs=1e-5)

    # Statistics are not taken anew: other speakers of the same clips are refused, and not passed over.
    moved = new.with_name("moved.csv")
    moved.write_text(new.read_text().replace("eve-0.wav,eve-0.wav,eve", "eve-0.wav,eve-0.wav,fay"))
    with pytest.raises(ValueError, match=r"speaker of 1 clips changed, such as of 'eve-0.wav' from 'eve' to 'fay'"):
        score(ScoreConfig(run=str(tmp_path / "run"), clips=str(moved), corpus="folder", out=str(tmp_path / "scores")))


def test_a_score_says_whose_statistics_each_of_its_streams_used(tmp_path: Path) -> None:
    """The run knows Anna's voice and not her face."""
    x = np.ones((2, 1), np.float32)
    run_has = Normaliser.fit([("folder/anna", "voice", x), ("folder/anna", "voice", x), ("folder/ben", "face", x)])
    here = add_up(("folder/anna", stream, Moments.of(x)) for stream in ("voice", "face", "words"))
    worker = object.__new__(ScoreWorker)
    worker.config = ScoreConfig(run="", clips="", corpus="folder", out="")
    worker.card = ModelCard(ModelConfig(), ("a", "b"), "softmax", {}, normalise="speaker")
    worker.known, worker.preparation = run_has, Preparation(run_has.extended(here, replace=False))
    anna = Clip("1", "/1.wav", speaker="anna")
    assert worker._normalised_by(anna, ["voice"]) == "the speaker's 2 clips in the run"
    assert worker._normalised_by(anna, ["face"]) == "the speaker's 1 clips here"
    assert worker._normalised_by(anna, ["face", "voice"]) == "the speaker's 2 clips in the run and the speaker's 1 clips here"
