from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import add_alternative, make_store, read_clips

from rrnn.config import Config, TrainConfig
from rrnn.data import ClipSet, collate, evaluation_batches, length_batches, open_store, read_shard, read_times
from rrnn.splits import SIDES, split_clips
from rrnn.train import divide


def test_clips_come_joined_and_in_the_order_of_their_ids(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    clips = read_clips(store)
    assert clips.ids == [f"{i:03d}" for i in range(48)]
    table = read_shard(store, "00000-0001")
    row = table.slice(2, 1)
    i = clips.ids.index(row["clip_id"][0].as_py())
    np.testing.assert_array_equal(clips.values("a", i).ravel(), np.array(row["a.values"][0].as_py(), np.float32))
    assert clips.values("a", i).shape == (row["a.n_frames"][0].as_py(), 3)
    assert len(clips.values("w", 2)) == clips.lengths["w"][2] == 0
    assert clips.usable().tolist() == [True] * 47 + [False]


def test_the_order_in_which_shards_are_read_changes_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    forward = [read_shard(store, s) for s in store.shards]
    assert ClipSet(forward, ["a", "w"]).digest() == ClipSet(forward[::-1], ["w", "a"]).digest()


def test_a_clip_that_is_there_twice_is_named(tmp_path: Path) -> None:
    index = make_store(tmp_path)
    shard = read_shard(index, index.shards[0])
    with pytest.raises(ValueError, match=f"clip '{shard['clip_id'][0]}' comes twice in the store"):
        ClipSet([shard, shard.slice(0, 1)], list(index.streams))


def test_digest_changes_with_the_data(tmp_path: Path) -> None:
    one, other = make_store(tmp_path / "1"), make_store(tmp_path / "2", clips=5)
    assert read_clips(one).digest() != read_clips(other).digest()


def test_a_store_that_is_not_finished_is_named(tmp_path: Path) -> None:
    make_store(tmp_path)
    (tmp_path / "features/w/00000-0002.parquet").unlink()
    with pytest.raises(ValueError, match=r"stream 'w' of .* lacks 1 of 7 shards: run jobs\.extract again"):
        open_store(str(tmp_path))
    assert list(open_store(str(tmp_path), ["a"]).streams) == ["a"]
    with pytest.raises(ValueError, match=r"has no stream face: it has a, w"):
        open_store(str(tmp_path), ["face"])


def test_alternatives_stand_in_for_a_stream_where_a_clip_has_them(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    add_alternative(store, "a", "b", shift=1.0, without="003")
    index = open_store(str(tmp_path), alternatives={"a": ["b"]})
    assert list(index.streams) == ["a", "w"]
    assert list(open_store(str(tmp_path)).streams) == ["a", "b", "w"]
    clips = read_clips(index)
    assert clips.streams == ("a", "w")
    for i in (0, 1, 3):
        a = clips.values("a", i)
        np.testing.assert_array_equal(clips.one_of("a", i, 0), a)
        np.testing.assert_array_equal(clips.one_of("a", i, 1), a if i == 3 else a + 1)
        np.testing.assert_array_equal(clips.one_of("a", i, 2), a, "of another stream that has two")
        np.testing.assert_array_equal(clips.one_of("w", i, 1), clips.values("w", i))
    assert not open_store(str(tmp_path), modalities=["text"], alternatives={"a": ["b"]}).alternatives, (
        "of no stream that is taken"
    )
    before = clips.digest()
    preparation = clips.prepare("speaker", index.corpus, {"a": 2})
    np.testing.assert_allclose(clips.one_of("a", 7, 1), clips.values("a", 7), atol=1e-5)  # by its own speakers' statistics
    assert preparation.normaliser is not None
    assert {stream for _, stream in preparation.normaliser.moments} == {"a", "w"}, "what a run keeps"

    for alternatives, says in (
        ({"a": ["c"]}, "has no stream c"),
        ({"c": ["b"]}, r"train\.alternatives names c: .* has a, b, w"),
        ({"a": ["a"]}, "a can't be taken as a stream, and in place of one"),
        ({"a": ["b"], "w": []}, "expected as many of each stream, since they are taken together, found a 1, w 0"),
        ({"a": ["w"]}, "'w' can't be an alternative of 'a': it has another modality, columns, frame_shift"),
    ):
        with pytest.raises(ValueError, match=says):
            open_store(str(tmp_path), alternatives=alternatives)
    add_alternative(store, "a", "b", shift=2.0)
    assert read_clips(index).digest() != before


def test_times_of_one_clip(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    clips = read_clips(store)
    times = read_times(store, clips.shards[10], clips.ids[10])
    assert times["a"].seconds == pytest.approx(np.arange(clips.lengths["a"][10]) * 0.1)
    assert times["w"].tokens == ["x"] * int(clips.lengths["w"][10])
    assert times["a"].tokens is None


def test_collate_pads_and_tells_lengths() -> None:
    batch = collate([{"a": np.ones((2, 3), np.float32)}, {"b": np.full((4, 1), 5, np.float32)}], {"a": 3, "b": 1})
    assert batch.values["a"].shape == (2, 2, 3)
    assert batch.lengths["a"].tolist() == [2, 0]
    assert batch.lengths["b"].tolist() == [0, 4]
    assert batch.values["b"][1, :, 0].tolist() == [5, 5, 5, 5]
    assert collate([{}], {"a": 3}).values["a"].shape == (1, 1, 3)


@given(st.lists(st.integers(1, 900), min_size=1, max_size=200), st.integers(1, 40), st.integers(0, 10**6))
def test_batches_hold_every_clip_once_and_mix_anew(costs: list[int], size: int, seed: int) -> None:
    cost = np.array(costs)
    batches = length_batches(cost, size, seed)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(cost)))
    assert all(0 < len(b) <= size for b in batches)
    assert [b.tolist() for b in length_batches(cost, size, seed)] == [b.tolist() for b in batches]
    assert sorted(np.concatenate(list(evaluation_batches(cost, size))).tolist()) == list(range(len(cost)))


def test_batches_hold_clips_of_similar_length() -> None:
    cost = np.random.default_rng(0).integers(50, 1000, 2000)
    batches = length_batches(cost, 32, 0)
    padded = sum(cost[b].max() * len(b) for b in batches)
    assert padded < 1.15 * cost.sum()


def names(n: int) -> list[str]:
    return [f"s{i:02d}" for i in range(n)]


@given(st.integers(3, 30), st.integers(0, 5), st.integers(0, 3))
def test_no_speaker_is_on_two_sides(n_speakers: int, seed: int, test_fold: int) -> None:
    speakers = [s for s in names(n_speakers) for _ in range(3)]
    config = TrainConfig(seed=seed, folds=5, test_fold=test_fold % min(5, n_speakers))
    ids = [str(i) for i in range(len(speakers))]
    split = split_clips(ids, speakers, [None] * len(ids), np.ones(len(ids), bool), config)
    sides = [{speakers[i] for i in split.side(s)} for s in SIDES]
    assert all(sides)
    assert sum(len(s) for s in sides) == n_speakers
    assert set.union(*sides) == set(speakers)


def test_the_test_speakers_do_not_depend_on_the_training_seed() -> None:
    speakers = names(10)
    keep = np.ones(10, bool)
    tests = {
        tuple(split_clips(speakers, speakers, [None] * 10, keep, TrainConfig(seed=seed)).test.tolist()) for seed in range(5)
    }
    assert len(tests) == 1


def test_the_corpus_folds_are_used_where_there_are_any() -> None:
    speakers = names(6)
    folds: list[str | None] = ["1", "1", "2", "2", "3", "3"]
    split = split_clips(speakers, speakers, folds, np.ones(6, bool), TrainConfig(test_fold=1))
    assert split.test.tolist() == [2, 3]
    assert split.how.startswith("the corpus's own folds; test: part 2; 1 of the other 4 speakers")
    named = split_clips(speakers, speakers, ["train"] * 3 + ["valid", "test", "test"], np.ones(6, bool), TrainConfig())
    assert (named.train.tolist(), named.valid.tolist(), named.test.tolist()) == ([0, 1, 2], [3], [4, 5])


def test_splits_that_leak_or_cannot_be_are_refused() -> None:
    keep = np.ones(4, bool)
    with pytest.raises(ValueError, match=r"1 speakers are on two sides, such as s: the folds leak speakers"):
        split_clips(list("abcd"), ["s", "t", "u", "s"], ["train", "valid", "test", "test"], keep, TrainConfig())
    with pytest.raises(ValueError, match=r"1 clips have no speaker \(such as 'c'\)"):
        split_clips(list("abcd"), ["s", "t", None, "u"], [None] * 4, keep, TrainConfig())
    with pytest.raises(ValueError, match=r"2 speakers can't be divided"):
        split_clips(list("abcd"), ["s", "s", "t", "t"], [None] * 4, keep, TrainConfig())
    with pytest.raises(ValueError, match=r"train\.test_fold is 4, but there are 3 folds"):
        split_clips(list("abcd"), ["s", "t", "u", "u"], [None] * 4, keep, TrainConfig(test_fold=4))
    with pytest.raises(ValueError, match=r"split=given, but the clips have no folds"):
        split_clips(list("abcd"), ["s", "t", "u", "v"], [None] * 4, keep, TrainConfig(split="given"))
    assert len(split_clips(list("abcd"), [None] * 4, [None] * 4, keep, TrainConfig(split="clip")).train)


def test_a_leaking_split_can_be_had_by_name_and_says_that_it_leaks() -> None:
    folds: list[str | None] = ["train", "train", "train", "test"]
    split = split_clips(list("abcd"), ["s", "t", "u", "s"], folds, np.ones(4, bool), TrainConfig(split="given"))
    assert split.test.tolist() == [3]
    assert len(split.valid) == 1
    assert "WARNING: 1 speakers are on two sides, such as s" in split.how


def test_classes_that_no_training_clip_shows_or_that_look_alike_are_told(tmp_path: Path) -> None:
    clips = read_clips(make_store(tmp_path))
    assert "WARNING" not in divide(clips, Config())[1].how
    test = divide(clips, Config())[1].test
    for i in test:
        clips.emotions[i] = "Calm"
    how = divide(clips, Config())[1].how
    assert "; WARNING: no training clip shows Calm, which test clips do" in how
    assert "; WARNING: the classes Calm, calm differ by capitals alone" in how


def test_a_fixed_split_leaves_clips_in_no_fold_out_and_says_so() -> None:
    folds: list[str | None] = ["train", "train", "valid", "test", None]
    split = split_clips(list("abcde"), list("stuvw"), folds, np.ones(5, bool), TrainConfig())
    assert sorted([*split.train, *split.valid, *split.test]) == [0, 1, 2, 3]
    assert "1 clips in no fold are on no side" in split.how
    with pytest.raises(ValueError, match=r"1 clips have no fold and others do"):
        split_clips(list("abcde"), list("stuvw"), ["1", "1", "2", "3", None], np.ones(5, bool), TrainConfig())


def test_without_a_valid_fold_some_training_speakers_decide_when_to_stop() -> None:
    folds: list[str | None] = ["train", "train", "train", "test"]
    split = split_clips(list("abcd"), list("stuv"), folds, np.ones(4, bool), TrainConfig())
    assert (len(split.train), len(split.valid), split.test.tolist()) == (2, 1, [3])


def test_leave_one_speaker_out_tests_each_speaker_once() -> None:
    speakers = [s for s in names(6) for _ in range(2)]
    folds: list[str | None] = ["1", "2"] * 6  # of the corpus: not asked for
    tested = []
    for k in range(6):
        config = TrainConfig(split="leave_one_speaker_out", test_fold=k)
        split = split_clips([str(i) for i in range(12)], speakers, folds, np.ones(12, bool), config)
        (speaker,) = {speakers[i] for i in split.test}
        tested.append(speaker)
    assert tested == names(6)


def test_speaker_folds_deal_speakers_whatever_folds_there_are() -> None:
    keep, speakers = np.ones(6, bool), names(6)
    dealt = split_clips(speakers, speakers, [None] * 6, keep, TrainConfig(folds=3))
    anew = split_clips(speakers, speakers, ["1", "1", "1", "2", "2", "2"], keep, TrainConfig(split="speaker_folds", folds=3))
    assert anew.test.tolist() == dealt.test.tolist()
