from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from stores import EMOTIONS, add_alternative, make_store, read_clips
from trained import train_by

from rrnn.architectures import build_model
from rrnn.config import Config, ModelConfig, TrainConfig
from rrnn.data import Preparation, StoreIndex, Times, open_store, pooled
from rrnn.metrics import naive_regression
from rrnn.model import Batch
from rrnn.predict import apply_link, explain, predict
from rrnn.run import load_model, load_preparation
from rrnn.targets import make_targets
from rrnn.train import Workers, _averaging, divide, drop_streams, fit_standardisation, mix, open_test, train

SMALL = Config(
    model=ModelConfig(hidden=4, hops=2, dropout=0.0),
    train=TrainConfig(epochs=3, batch_size=7, learning_rate=0.01, folds=4),
)


class Killed(Exception):
    pass


def run_train(
    config: Config,
    store: StoreIndex,
    folder: Path,
    *,
    stop_after: int = 0,
    stop_refit: int = -1,
    checkpoint: Path | None = None,
    test: bool = True,
) -> dict[str, Any]:
    """Train in this process; keeps every checkpoint in folder/checkpoints; stop_after raises after that epoch's report."""
    kept = folder / "checkpoints"

    def report(figures: dict[str, Any], checkpoint: Path | None) -> None:
        assert checkpoint is not None
        if figures["epoch"] == stop_after or figures.get("refit_epoch") == stop_refit:
            raise Killed

    scratch = kept / ("second" if checkpoint else "first")
    train(
        config,
        store,
        read_clips(store),
        str(folder),
        workers=Workers(),
        report=report,
        scratch=scratch,
        checkpoint=checkpoint,
        checkpoint_seconds=0,
        test=test,
    )
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StoreIndex:
    return make_store(tmp_path_factory.mktemp("store"))


def model_bytes(folder: Path) -> bytes:
    return (folder / "model/model.safetensors").read_bytes()


def test_a_run_says_everything(store: StoreIndex, tmp_path: Path) -> None:
    summary = run_train(SMALL, store, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["classes"] == list(EMOTIONS)
    assert config["clips"] == {"all": 48, "unlabelled": 0, "unusable": 1}
    assert config["data_digest"] == read_clips(store).digest()
    sides = [set(config["splits"][s]["speakers"]) for s in ("train", "valid", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 8
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    table = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
    test = [r for r in table if r["split"] == "test"]
    assert {r["speaker"] for r in test} == sides[2]
    values = np.array([[r[f"p_{c}"] for c in EMOTIONS] for r in test])
    np.testing.assert_allclose(values.sum(1), 1)
    right = np.mean([r["target"] == r["prediction"] for r in test])
    assert summary["test"]["accuracy"] == pytest.approx(right)
    assert summary["naive"]["accuracy"] == pytest.approx(1 / 3, abs=0.05)
    unusable = pq.read_table(tmp_path / "unusable.parquet").to_pylist()
    assert {(r["stream"], r["status"]) for r in unusable} == {("a", "absent"), ("w", "absent")}
    assert len(unusable) == 10
    examples = pq.read_table(tmp_path / "examples.parquet").to_pylist()
    assert {r["target"] for r in examples} == set(EMOTIONS)
    assert all(sum(r["weights"]) == pytest.approx(1) and len(r["weights"]) == len(r["times"]) for r in examples)


def test_it_learns_what_there_is_to_learn(store: StoreIndex, tmp_path: Path) -> None:
    config = Config(model=ModelConfig(hidden=8, hops=2, dropout=0.1), train=TrainConfig(epochs=30, learning_rate=0.02, folds=4))
    summary = run_train(config, store, tmp_path)
    assert summary["test"]["accuracy"] == 1.0
    assert summary["naive"]["accuracy"] < 0.5


def test_same_seed_same_bits(store: StoreIndex, tmp_path: Path) -> None:
    run_train(SMALL, store, tmp_path / "1")
    run_train(SMALL, store, tmp_path / "2")
    other = Config(model=SMALL.model, train=TrainConfig(epochs=3, batch_size=7, learning_rate=0.01, folds=4, seed=1))
    run_train(other, store, tmp_path / "3")
    assert model_bytes(tmp_path / "1") == model_bytes(tmp_path / "2") != model_bytes(tmp_path / "3")


@pytest.mark.parametrize(("dropout", "average"), [(0.0, 0.0), (0.4, 0.0), (0.4, 0.9)])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(
    store: StoreIndex, tmp_path: Path, dropout: float, average: float
) -> None:
    config = Config(model=ModelConfig(hidden=4, hops=2, dropout=dropout), train=replace(SMALL.train, average=average))
    run_train(config, store, tmp_path / "whole")
    with pytest.raises(Killed):
        run_train(config, store, tmp_path / "cut", stop_after=2)
    assert not (tmp_path / "cut/summary.json").exists()
    run_train(config, store, tmp_path / "cut", checkpoint=tmp_path / "cut/checkpoints/first/epoch-2")
    assert model_bytes(tmp_path / "cut") == model_bytes(tmp_path / "whole")
    metrics = [(tmp_path / d / "metrics.jsonl").read_text().splitlines() for d in ("whole", "cut")]
    assert [json.loads(x)["train_loss"] for x in metrics[0]] == [json.loads(x)["train_loss"] for x in metrics[1]]


def test_refit_learns_from_validation_clips_too_once_the_epochs_are_chosen(store: StoreIndex, tmp_path: Path) -> None:
    once = Config(model=SMALL.model, train=replace(SMALL.train, average=0.9))
    config = Config(model=SMALL.model, train=replace(once.train, refit=True))
    plain, refit = (run_train(c, store, tmp_path / d) for c, d in ((once, "plain"), (config, "refit")))
    assert refit["best_epoch"] == plain["best_epoch"]
    assert refit["valid"] == plain["valid"], "chosen by what a model answered that had not heard them"
    assert model_bytes(tmp_path / "refit") != model_bytes(tmp_path / "plain")
    clips = read_clips(store)
    _, split = divide(clips, config)
    for folder, sides in (("plain", [split.train]), ("refit", [split.train, split.valid])):
        model, _, _ = load_model(str(tmp_path / folder))
        frames = np.concatenate([clips.values("a", i) for i in np.concatenate(sides)]).astype(np.float64)
        np.testing.assert_allclose(model.standardise["a"].mean.numpy(), np.nanmean(frames, 0), rtol=1e-5, atol=1e-6)

    with pytest.raises(Killed):
        run_train(config, store, tmp_path / "cut", stop_refit=1)
    run_train(config, store, tmp_path / "cut", checkpoint=tmp_path / "cut/checkpoints/first/refit-1")
    assert model_bytes(tmp_path / "cut") == model_bytes(tmp_path / "refit")

    closed = run_train(config, store, tmp_path / "closed", test=False)
    assert closed["test"] is None
    opened = open_test(str(tmp_path / "closed"), store, read_clips(store))
    for side in ("valid", "test"):
        assert opened[side] == pytest.approx(refit[side], nan_ok=True)


def test_checkpoints_and_models_hold_nothing_pickled(store: StoreIndex, tmp_path: Path) -> None:
    run_train(SMALL, store, tmp_path)
    found = {p.suffix for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {".json", ".jsonl", ".parquet", ".safetensors"}


def test_standardisation_sees_training_clips_alone(store: StoreIndex) -> None:
    clips = read_clips(store)
    torch.manual_seed(0)
    from rrnn.model import RRNN

    model = RRNN(SMALL.model, {"a": 3, "w": 2}, 3)
    chosen = np.arange(0, 20)
    fit_standardisation(model, clips, chosen, Workers())
    frames = np.concatenate([clips.values("a", i) for i in chosen]).astype(np.float64)
    np.testing.assert_allclose(model.standardise["a"].mean, frames.mean(0), rtol=1e-6)
    np.testing.assert_allclose(model.standardise["a"].std, frames.std(0), rtol=1e-5)


def test_intensities_train_and_score(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", regression=True)
    summary = run_train(SMALL, store, tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["task"] == "regression"
    rows = [r for r in pq.read_table(tmp_path / "run/predictions.parquet").to_pylist() if r["split"] == "test"]
    by_hand = np.mean([sum((r[f"t_{c}"] - r[f"y_{c}"]) ** 2 for c in ("fear", "joy")) for r in rows])
    assert summary["test"]["mse"] == pytest.approx(by_hand, rel=1e-5)
    assert summary["naive"]["mse"] > 0


def test_soft_labels_are_learned_and_raters_are_scored(store: StoreIndex, tmp_path: Path) -> None:
    clips = read_clips(store)
    clips.shares = [{e: 0.75 if e == name else 0.125 for e in EMOTIONS} for name in clips.emotions]
    clips.votes = [{"audio": {str(name): 6.0, "other": 2.0}} for name in clips.emotions]
    undecided = clips.emotions.index("sad")
    clips.emotions[undecided] = None
    clips.shares[undecided] = {"sad": 0.5, "calm": 0.5}
    objective, split = divide(clips, SMALL)
    assert objective.targets.names == EMOTIONS
    np.testing.assert_allclose(objective.targets.learned[undecided], [0, 0.5, 0.5])
    np.testing.assert_allclose(objective.targets.learned.sum(1), 1)
    assert undecided in split.train  # what has no class can be learned from, but not tested on
    train(SMALL, store, clips, str(tmp_path), workers=Workers(), report=lambda *_: None, scratch=tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["human"]["audio"]["accuracy"] == 0.75
    # trained long, the model says what the raters say, and no more
    many = Config(SMALL.model, replace(SMALL.train, epochs=60, patience=60, learning_rate=0.02))
    train(many, store, clips, str(tmp_path / "long"), workers=Workers(), report=lambda *_: None, scratch=tmp_path)
    rows = [r for r in pq.read_table(tmp_path / "long/predictions.parquet").to_pylist() if r["split"] == "test"]
    assert np.mean([max(r[f"p_{c}"] for c in EMOTIONS) for r in rows]) == pytest.approx(0.75, abs=0.08)


def test_labels_must_be_there(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    clips = read_clips(store)
    clips.emotions = [None] * len(clips)
    with pytest.raises(ValueError, match="no clip has a label"):
        make_targets(clips)
    clips.emotions = ["sad"] * len(clips)
    with pytest.raises(ValueError, match="all clips have the emotion 'sad'"):
        make_targets(clips)


def test_l2_trains_on_one_hot_targets_as_the_paper_does(store: StoreIndex, tmp_path: Path) -> None:
    train_config = TrainConfig(epochs=60, learning_rate=0.02, folds=4, patience=60, loss="l2")
    config = Config(model=ModelConfig(hidden=8, hops=2, dropout=0.1), train=train_config)
    summary = run_train(config, store, tmp_path)
    assert summary["test"]["accuracy"] > 0.9
    assert load_model(str(tmp_path))[1].link == "clip"


def test_a_saved_model_predicts_and_explains_as_it_did(store: StoreIndex, tmp_path: Path) -> None:
    summary = run_train(SMALL, store, tmp_path)
    model, card, model_id = load_model(str(tmp_path))
    assert model_id == summary["model_id"]
    clips = read_clips(store)
    rows = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
    wanted = [clips.ids.index(r["clip_id"]) for r in rows]
    values = predict(model, card, [{s: clips.values(s, i) for s in clips.streams} for i in wanted])
    np.testing.assert_allclose(values, [[r[f"p_{c}"] for c in EMOTIONS] for r in rows], atol=1e-6)
    from rrnn.data import Times

    clip = {"a": clips.values("a", 2)}
    (first, *_) = rows_of = explain(model, card, clip, {"a": Times([0.0] * len(clip["a"]), None)})
    assert [r["hop"] for r in rows_of] == [1, 2]
    assert first["stream"] == "a"
    assert all(0 < r["update"] < 1 for r in rows_of), "the share of the memory that each hop rewrote"


def test_links_by_hand() -> None:
    np.testing.assert_allclose(apply_link("softmax", np.array([[0.0, np.log(3)]])), [[0.25, 0.75]])
    np.testing.assert_allclose(apply_link("clip", np.array([[-1.0, 0.5, 0.5]])), [[0, 0.5, 0.5]], atol=1e-5)
    np.testing.assert_allclose(apply_link("identity", np.array([[-1.0, 2.0]])), [[-1, 2]])


def test_alternatives_are_what_training_hears_and_nothing_else(store: StoreIndex, tmp_path: Path) -> None:
    plain = run_train(SMALL, store, tmp_path / "plain")
    config = Config(model=SMALL.model, train=replace(SMALL.train, alternatives={"a": ("b",)}))
    ids = {}
    for shift in (0.0, 1.0):
        own = make_store(tmp_path / f"store{shift}")
        add_alternative(own, "a", "b", shift=shift)
        index = open_store(own.url, alternatives=config.train.alternatives)
        summary = run_train(config, index, tmp_path / f"run{shift}")
        ids[shift] = summary["model_id"]
        model, card, _ = load_model(str(tmp_path / f"run{shift}"))
        assert set(card.streams) == set(model.streams) == {"a", "w"}
        clips = read_clips(index)
        frames = np.concatenate([clips.values("a", i) for i in divide(clips, config)[1].train]).astype(np.float64)
        np.testing.assert_allclose(model.standardise["a"].mean.numpy(), np.nanmean(frames, 0), rtol=1e-5, atol=1e-6)
    assert ids[0.0] == plain["model_id"], "an alternative that is the same is none"
    assert ids[1.0] != plain["model_id"]


def test_averaged_weights_by_hand() -> None:
    model = build_model(SMALL.model, {"a": 3}, 2)
    averaged = _averaging(model, Config(train=TrainConfig(average=0.25)))
    assert averaged is not None
    assert _averaging(model, Config()) is None
    weight, average = model.decoder.output.bias, averaged.module.decoder.output.bias
    expected = []
    for step, value in enumerate((4.0, 8.0, 4.0, 0.0, 0.0)):
        weight.data.fill_(value)
        averaged.update_parameters(model)
        share = min(0.25, step / (step + 10))  # of what was, so that the first weights, which know nothing, are soon forgotten
        expected.append(share * (expected[-1] if step else 0.0) + (1 - share) * value)
        assert average.tolist() == pytest.approx([expected[-1]] * 2)
    assert expected[1] == pytest.approx(4 / 11 + 80 / 11)


def test_two_workers_train_what_one_trains_and_report_everyones_figures(store: StoreIndex, tmp_path: Path) -> None:
    # 7 clips a step over 2 workers: shares are unequal, so an average over workers would differ from the one over clips.
    config = Config(model=SMALL.model, train=replace(SMALL.train, average=0.9))
    alone = run_train(config, store, tmp_path / "one")
    train_by(2, config, store, tmp_path / "two")
    together = json.loads((tmp_path / "two/summary.json").read_text())
    for side in ("valid", "test"):
        assert together[side] == pytest.approx(alone[side], abs=1e-5)
    one, two = ([json.loads(x) for x in (tmp_path / d / "metrics.jsonl").read_text().splitlines()] for d in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-5)
        assert b["valid_loss"] == pytest.approx(a["valid_loss"], rel=1e-5)
        assert (a["workers"], b["workers"]) == (1, 2)


SMALL_MODELS = {
    "early": ModelConfig(architecture="early", hidden=4, hops=2),
    "late": ModelConfig(architecture="late", hidden=4),
    "naive": ModelConfig(architecture="naive"),
    "mfn": ModelConfig(architecture="mfn", hidden=4),
    "mult": ModelConfig(architecture="mult", hidden=4, heads=2, layers=1),
}


@pytest.mark.parametrize("architecture", SMALL_MODELS)
def test_every_architecture_trains_and_scores_in_the_same_way(store: StoreIndex, tmp_path: Path, architecture: str) -> None:
    config = Config(model=SMALL_MODELS[architecture], train=TrainConfig(epochs=2, folds=4, stream_dropout=0.3))
    summary = run_train(config, store, tmp_path)
    model, card, _ = load_model(str(tmp_path))
    assert card.model == SMALL_MODELS[architecture]
    clips = read_clips(store)
    rows = [r for r in pq.read_table(tmp_path / "predictions.parquet").to_pylist() if r["split"] == "test"]
    indices = [clips.ids.index(r["clip_id"]) for r in rows]
    values = predict(model, card, [{s: clips.values(s, i) for s in clips.streams} for i in indices])
    np.testing.assert_allclose(values, [[r[f"p_{c}"] for c in EMOTIONS] for r in rows], atol=1e-6)
    if architecture == "naive":
        for measure, value in summary["naive"].items():
            assert summary["test"][measure] == pytest.approx(value)
    examples = pq.read_table(tmp_path / "examples.parquet").num_rows
    assert bool(examples) == (architecture == "early")


@pytest.mark.parametrize(("loss", "best"), [(None, "mean"), ("l1", "median")])
def test_the_naive_model_of_intensities_is_the_best_constant_of_its_loss(
    tmp_path: Path, loss: Literal["l1"] | None, best: Literal["mean", "median"]
) -> None:
    store = make_store(tmp_path / "store", regression=True)
    config = Config(model=SMALL_MODELS["naive"], train=TrainConfig(epochs=1, folds=4, loss=loss))
    run_train(config, store, tmp_path / "run")
    objective, split = divide(read_clips(store), config)
    expected = naive_regression(objective.targets.values[split.train], best)
    np.testing.assert_allclose(load_model(str(tmp_path / "run"))[0].get_parameter("constant").detach(), expected, rtol=1e-6)


def test_a_loss_that_the_labels_do_not_have_is_refused(store: StoreIndex) -> None:
    config = Config(model=SMALL.model, train=TrainConfig(loss="l1", folds=4))
    with pytest.raises(
        ValueError, match=r"train\.loss is l1, but the clips make a classification: expected cross_entropy or l2"
    ):
        divide(read_clips(store), config)


def test_mixup_mixes_frames_that_both_have_and_targets_in_one_share() -> None:
    torch.manual_seed(0)
    nan = float("nan")
    x = torch.tensor([[[1.0], [2.0], [3.0]], [[10.0], [nan], [0.0]], [[0.0], [0.0], [0.0]]])
    batch = Batch({"a": x}, {"a": torch.tensor([3, 2, 0])})  # three frames, two of which one was not observed, and none
    target = torch.eye(3)
    seen = set()
    for _ in range(50):
        mixed, mixed_target = mix(batch, target, 1.0)
        share, other = float(mixed_target[0, 0]), int(mixed_target[0].topk(2).indices[1])
        if share == 1:
            continue  # with itself
        seen.add(other)
        assert 0.5 <= share < 1
        assert mixed.lengths is batch.lengths
        np.testing.assert_allclose(mixed_target.sum(1), 1, rtol=1e-6)
        got = mixed.values["a"][0, :, 0]
        if other == 1:  # its second frame was not observed, its third is padding
            np.testing.assert_allclose(got, [share * 1 + (1 - share) * 10, 2, 3], rtol=1e-6)
        else:  # it has no frame at all
            np.testing.assert_array_equal(got, [1, 2, 3])
        np.testing.assert_array_equal(mixed.values["a"][1, 1].isnan().numpy(), [True])  # nor is what was not observed made up
    assert seen == {1, 2}


def test_pooled_frames_by_hand(store: StoreIndex) -> None:
    nan = np.nan
    x = np.array([[1, nan], [3, nan], [nan, 4], [7, 8], [9, nan]], np.float32)
    np.testing.assert_array_equal(pooled(x, 2), np.array([[2, nan], [7, 6], [9, nan]], np.float32))
    assert pooled(x, 1) is x
    times = Preparation(pool={"w": 2}).times("w", Times([0.0, 1.0, 5.0], ["a", "b", "c"]))
    assert times == Times([0.5, 5.0], ["a b", "c"])
    clips = read_clips(store)
    raw, whole = clips.values("a", 0), clips.lengths["a"][0]
    clips.prepare("none", "folder", {"a": 3})
    np.testing.assert_allclose(clips.values("a", 0)[0], raw[:3].mean(0), rtol=1e-6)
    assert len(clips.values("a", 0)) == -(-whole // 3)
    np.testing.assert_array_equal(clips.frames("a", 0), raw)
    with pytest.raises(ValueError, match=r"train\.pool names b: the streams are a, w"):
        divide(clips, Config(train=TrainConfig(pool={"b": 3})))
    with pytest.raises(ValueError, match=r"train\.label_smoothing is of the loss cross_entropy, and train\.loss is l2"):
        divide(clips, Config(train=TrainConfig(label_smoothing=0.1, loss="l2")))


def test_what_few_clips_need_trains_and_scores_alike(store: StoreIndex, tmp_path: Path) -> None:
    few = TrainConfig(epochs=3, folds=4, mixup=1.0, label_smoothing=0.1, pool={"a": 2}, normalise="speaker", learning_rate=0.01)
    run_train(Config(ModelConfig(hidden=4, skip=True), few), store, tmp_path)
    model, card, _ = load_model(str(tmp_path))
    preparation = load_preparation(str(tmp_path), card)
    clips = read_clips(store)
    rows = [r for r in pq.read_table(tmp_path / "predictions.parquet").to_pylist() if r["split"] == "test"]
    for row in rows[:3]:
        i = clips.ids.index(row["clip_id"])
        group = f"folder/{row['speaker']}"
        clip = {s: preparation(group, s, clips.extracted(s, i)) for s in card.columns if clips.lengths[s][i]}
        assert len(clip["a"]) == -(-clips.lengths["a"][i] // 2)
        np.testing.assert_allclose(predict(model, card, [clip])[0], [row[f"p_{c}"] for c in EMOTIONS], rtol=1e-5)
    example = pq.read_table(tmp_path / "examples.parquet").to_pylist()[0]
    assert len(example["weights"]) == len(example["times"])


def test_streams_are_dropped_as_often_as_asked_and_one_always_stays() -> None:
    torch.manual_seed(0)
    lengths = {"a": torch.tensor([5, 5, 0, 0] * 1000), "b": torch.tensor([3, 0, 7, 0] * 1000)}
    dropped = drop_streams(lengths, 0.4)
    for s, n in lengths.items():
        assert ((dropped[s] == n) | (dropped[s] == 0)).all()
    a, b = (dropped[s].view(-1, 4) > 0 for s in ("a", "b"))
    assert (a[:, 0] | b[:, 0]).all()
    assert a[:, 1].all()
    assert b[:, 2].all()
    assert not (a[:, 3] | b[:, 3]).any()
    # both drawn with 0.6 * 0.6; one alone else
    assert (a[:, 0] & b[:, 0]).float().mean() == pytest.approx(0.36, abs=0.05)
    assert a[:, 0].float().mean() == pytest.approx(0.6 + 0.4 * 0.4 / 2, abs=0.05)


def test_adamw_is_torchs_and_leaves_torchs_compiler_alone() -> None:
    """And what only a test needs is not imported by a training process."""
    script = """
import sys
import torch
import jobs.train
from rrnn.train import AdamW

def trained(kind):
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    of = kind(model.parameters(), lr=0.01, weight_decay=0.1, fused=True)
    for _ in range(5):
        of.zero_grad(set_to_none=True)
        model(torch.ones(2, 5)).square().sum().backward()
        of.step()
        of.load_state_dict(of.state_dict())
    return [p for slot in of.state_dict()["state"].values() for p in slot.values()] + list(model.parameters())

mine = trained(AdamW)
print([name for name in ("torch._dynamo", "sklearn", "scipy.stats", "matplotlib", "optuna") if name in sys.modules])
print(all(torch.equal(a, b) for a, b in zip(mine, trained(torch.optim.AdamW), strict=True)))
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["[]", "True"]


def test_bfloat16_trains_about_the_same(store: StoreIndex, tmp_path: Path) -> None:
    half = Config(model=SMALL.model, train=TrainConfig(**{**asdict(SMALL.train), "precision": "bfloat16"}))
    losses = []
    for name, config in (("full", SMALL), ("half", half)):
        run_train(config, store, tmp_path / name)
        losses.append([json.loads(x)["train_loss"] for x in (tmp_path / name / "metrics.jsonl").read_text().splitlines()])
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)
