"""Normalisation by speaker: what it takes out, from whose clips, and that it travels with the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from stores import make_store, read_clips

from rrnn.config import Config, ModelConfig, TrainConfig
from rrnn.normalise import POOLED, Moments, Normaliser, add_up, group_of, moments_of, moments_table
from rrnn.predict import predict
from rrnn.run import load_model, load_normaliser
from rrnn.train import Workers, divide, train

SMALL = Config(
    model=ModelConfig(hidden=4, hops=2, dropout=0.0),
    train=TrainConfig(epochs=2, batch_size=7, folds=4, normalise="speaker"),
)


def frames(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_by_hand() -> None:
    normaliser = Normaliser.fit(
        [
            ("c/anna", "a", frames([1, 5, np.nan], [3, 5, np.nan])),
            ("c/anna", "a", frames([5, 5, np.nan])),
            ("c/ben", "a", frames([100, 0, 7])),
        ]
    )
    # anna: mean 3 and variance ((2² + 0 + 2²) / 3) of the first column; the second never varies, the third was never seen
    got = normaliser.apply("c/anna", "a", frames([5, 6, np.nan]))
    np.testing.assert_allclose(got, [[2 / np.sqrt(8 / 3), 1, np.nan]], rtol=1e-6)
    # one of whom nothing is known: all frames together, mean (1 + 3 + 5 + 100) / 4
    pooled = normaliser.moments[POOLED, "a"]
    np.testing.assert_allclose(pooled.scale()[0], [27.25, 3.75, 7])
    assert pooled.clips == 3
    np.testing.assert_array_equal(
        normaliser.apply("c/nobody", "a", frames([27.25, 3.75, 7])), normaliser.apply(POOLED, "a", frames([27.25, 3.75, 7]))
    )


def test_a_stream_that_no_clip_had_stays_as_it_is() -> None:
    normaliser = Normaliser.fit([("c/anna", "a", frames([1.0]))])
    np.testing.assert_array_equal(normaliser.apply(POOLED, "w", frames([5.0])), [[5.0]])


def test_a_speaker_comes_out_with_mean_0_and_deviation_1_whatever_offset_and_scale_there_was(tmp_path: Path) -> None:
    clips = read_clips(make_store(tmp_path))
    clips.prepare("speaker", "folder", {})
    for speaker in set(clips.speakers):
        of = [clips.values("a", i) for i in range(len(clips)) if clips.speakers[i] == speaker and clips.lengths["a"][i]]
        x = np.concatenate(of)
        np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(x.std(0), 1, rtol=1e-4)
    clips.prepare("none", "folder", {})
    np.testing.assert_array_equal(clips.values("a", 0), clips.extracted("a", 0))


def test_moments_add_up_and_survive_the_file() -> None:
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    whole, parts = Moments.of(x), add_up([("g", "s", Moments.of(x[:10])), ("g", "s", Moments.of(x[10:]))])["g", "s"]
    np.testing.assert_allclose(whole.second, parts.second)
    back = add_up(moments_of(moments_table({("g", "s"): parts})))["g", "s"]
    assert back.clips == 2
    np.testing.assert_array_equal(back.first, parts.first)


def test_two_corpora_may_have_a_speaker_of_one_name() -> None:
    assert group_of("speaker", "ravdess", "01") != group_of("speaker", "crema_d", "01")
    assert group_of("speaker", "ravdess", None) == POOLED
    assert group_of("corpus", "ravdess", "01") == group_of("corpus", "ravdess", None) == "ravdess"


def test_known_speakers_keep_the_runs_statistics_unless_told_otherwise() -> None:
    mine = Normaliser.fit([("c/anna", "a", frames([0.0], [2.0]))])
    others = add_up([("c/anna", "a", Moments.of(frames([10.0], [30.0]))), ("c/ben", "a", Moments.of(frames([4.0], [6.0])))])
    kept, replaced = mine.extended(others, replace=False), mine.extended(others, replace=True)
    assert kept.apply("c/anna", "a", frames([2.0])) == 1
    assert replaced.apply("c/anna", "a", frames([30.0])) == 1
    assert kept.apply("c/ben", "a", frames([6.0])) == replaced.apply("c/ben", "a", frames([6.0])) == 1
    assert kept.moments[POOLED, "a"] is mine.moments[POOLED, "a"]


@pytest.mark.parametrize("by", ["speaker", "corpus"])
def test_a_run_keeps_what_it_was_normalised_by_and_test_labels_play_no_part(tmp_path: Path, by: str) -> None:
    store = make_store(tmp_path / "store")
    config = Config(SMALL.model, replace(SMALL.train, normalise=by))

    def run(name: str, forget: bool) -> bytes:
        clips = read_clips(store)
        if forget:  # statistics don't change where the test speakers' labels are others
            _, split = divide(clips, config)
            for i in split.test:
                clips.emotions[i] = "sad" if clips.emotions[i] == "calm" else "calm"
        train(config, store, clips, str(tmp_path / name), workers=Workers(), report=lambda *_: None, scratch=tmp_path)
        return (tmp_path / name / "model/model.safetensors").read_bytes()

    assert run("one", False) == run("two", True)
    model, card, _ = load_model(str(tmp_path / "one"))
    assert (card.normalise, card.corpus) == (by, "folder")
    # raw clips, normalised by what the run holds, get the run's own answers
    normaliser = load_normaliser(str(tmp_path / "one"), card)
    clips = read_clips(store)
    rows = [r for r in pq.read_table(tmp_path / "one/predictions.parquet").to_pylist() if r["split"] == "test"]
    for row in rows:
        i = clips.ids.index(row["clip_id"])
        group = group_of(by, "folder", clips.speakers[i])
        raw = {s: clips.values(s, i) for s in card.columns if clips.lengths[s][i]}
        clip = {s: normaliser.apply(group, s, x) for s, x in raw.items()}
        values = predict(model, card, [clip])[0]
        np.testing.assert_allclose(values, [row[f"p_{c}"] for c in card.classes], rtol=1e-5)
    (tmp_path / "one/model/statistics.parquet").write_bytes((tmp_path / "two/model/statistics.parquet").read_bytes() + b" ")
    with pytest.raises(ValueError, match=r"is not what the model was trained with"):
        load_normaliser(str(tmp_path / "one"), card)
    (tmp_path / "one/model/statistics.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"model/statistics\.parquet is missing"):
        load_normaliser(str(tmp_path / "one"), card)
    assert json.loads((tmp_path / "one/config.json").read_text())["train"]["normalise"] == by
