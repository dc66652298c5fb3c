"""Training: one function that any number of workers run side by side, with or without Ray around it.

Each step's clips are drawn for all workers together and dealt out, so an epoch is the same clips in the same batches
however many workers there are. Gradients are averaged by DistributedDataParallel with each worker's share weighted by its
number of clips. Every figure is computed from all workers' predictions, never averaged over workers.

With train.refit there are two trainings: one chooses the number of epochs; a new model then learns from validation clips too.

All that a resume must restore: the weights and their average, the best so far, the optimiser's moments, and State below. Random
numbers are seeded anew each epoch, so a run that was killed and resumed is the run that was not.
"""

from __future__ import annotations

import ctypes
import inspect
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from rrnn.config import Config, config_from_dict
from rrnn.data import ClipSet, StoreIndex, collate, evaluation_batches, length_batches
from rrnn.frames import real_frames
from rrnn.model import Batch, Model, Naive
from rrnn.normalise import Moments
from rrnn.predict import apply_link
from rrnn.record import write_config, write_results
from rrnn.run import ModelCard, RunFolder, load_model, save_model
from rrnn.splits import SIDES, Split, split_clips
from rrnn.targets import IntArray, Objective, Targets, make_objective, make_targets

CHECKPOINT_SECONDS = 10.0
WARM_STEPS = 10  # after n steps an average of weights has a decay of n / (n + WARM_STEPS), at most what is asked for


class AdamW(torch.optim.AdamW):
    """torch's, without what torch wraps around it for torch.compile, which is not used here: the wrappers import torch's
    compiler, two seconds of every training process's start."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
    zero_grad, add_param_group, state_dict, load_state_dict = (
        inspect.unwrap(method)
        for method in (
            torch.optim.Optimizer.zero_grad,
            torch.optim.Optimizer.add_param_group,
            torch.optim.Optimizer.state_dict,
            torch.optim.Optimizer.load_state_dict,
        )
    )


def divide(clips: ClipSet, config: Config) -> tuple[Objective, Split]:
    """What is to be learned, from whom, and on whom it is tested. Raises ValueError where the clips don't allow it."""
    if strangers := config.train.pool.keys() - set(clips.streams):
        raise ValueError(f"train.pool names {', '.join(sorted(strangers))}: the streams are {', '.join(clips.streams)}")
    objective = make_objective(make_targets(clips), config.train.loss)
    if config.train.label_smoothing and objective.loss != "cross_entropy":
        raise ValueError(f"train.label_smoothing is of the loss cross_entropy, and train.loss is {objective.loss}")
    targets = objective.targets
    split = split_clips(clips.ids, clips.speakers, clips.folds, clips.usable() & targets.labelled, config.train)
    split = replace(split, valid=split.valid[targets.scored[split.valid]], test=split.test[targets.scored[split.test]])
    for side in SIDES:
        if not len(split.side(side)):
            raise ValueError(f"no usable, labelled clip on the {side} side ({split.how})")
    if doubts := _doubts(targets, split):
        split = replace(split, how="; ".join([split.how, *(f"WARNING: {doubt}" for doubt in doubts)]))
    return objective, split


def _doubts(targets: Targets, split: Split) -> list[str]:
    """What is likely wrong with the classes, in words."""
    if targets.task != "classification":
        return []
    learned = targets.learned[split.train]
    known = set((np.flatnonzero(learned.sum(0)) if learned.ndim > 1 else learned).tolist())
    found = []
    for side in ("valid", "test"):
        if strange := sorted(set(targets.values[split.side(side)].tolist()) - known):
            shown = ", ".join(targets.names[c] for c in strange)
            found.append(f"no training clip shows {shown}, which {side} clips do")
    alike = Counter(name.casefold() for name in targets.names)
    if twice := [name for name in targets.names if alike[name.casefold()] > 1]:
        found.append(f"the classes {', '.join(twice)} differ by capitals alone")
    return found


@dataclass
class State:
    """Where training is. History holds what metrics.jsonl holds."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")
    refit_epoch: int = 0
    """Of the second training, on validation clips too (train.refit)."""
    seconds: float = 0.0
    stopped: bool = False
    """By `stop`, before its patience or its epochs were out."""
    history: list[dict[str, Any]] = field(default_factory=list)


class Diverged(RuntimeError):
    """The validation loss was never a number."""


@dataclass(frozen=True)
class Workers:
    """This worker among all."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def total(self, values: Tensor) -> Tensor:
        """Elementwise sum over all workers."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def agree(self, yes: bool) -> bool:
        """The first worker's answer, everywhere: clocks differ, and all must take part in a report or none."""
        return bool(self.total(torch.tensor(float(yes and self.rank == 0), device=self.device)))


Report = Callable[[dict[str, Any], Path | None], None]
"""Called by every worker, now and then after an epoch, with its figures and, on rank 0, a folder that holds a checkpoint."""

Stop = Callable[[list[dict[str, Any]]], bool]
"""Called by the first worker after every epoch, with the lines of metrics.jsonl so far: whether to train no longer."""


def train(
    config: Config,
    store: StoreIndex,
    clips: ClipSet,
    out: str,
    *,
    workers: Workers,
    report: Report,
    scratch: Path,
    checkpoint: Path | None = None,
    command: str | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    test: bool = True,
    stop: Stop | None = None,
) -> None:
    """Train, keep the best epoch by validation loss, test it once, and write the run.

    scratch: a folder of this worker's own for checkpoints on their way out. checkpoint: a folder to resume from. command: what
    would make this run again, for the record. checkpoint_seconds: how often to save and report; 0 means every epoch. test:
    False leaves the test set closed: nothing is predicted, computed or written of it, the summary says "test": null, and
    open_test() can complete the run. Raises Diverged where the validation loss was never a number.
    """
    run = RunFolder(out)
    objective, split = divide(clips, config)
    pool = config.train.pooling({s: about["frame_shift"] for s, about in store.streams.items()})
    preparation = clips.prepare(config.train.normalise, store.corpus, pool)
    card = ModelCard(
        config.model,
        objective.targets.names,
        objective.link,
        store.streams,
        config.train.normalise,
        store.corpus,
        pool,
    )

    def begin(learned: Split, fit: bool) -> _Trainer:
        """A new model of the seed, and how it is trained. fit: standardise by these training clips."""
        torch.manual_seed(config.train.seed)
        model = card.build().to(workers.device)
        rate = 0.0 if isinstance(model, Naive) else config.train.learning_rate  # it is given its best constant, below
        optimiser = AdamW(model.parameters(), lr=rate, weight_decay=config.train.weight_decay, fused=True)
        if fit:
            fit_standardisation(model, clips, learned.train, workers)
            if isinstance(model, Naive):
                model.constant.data.copy_(torch.from_numpy(objective.constant(learned.train)))
        return _Trainer(config, clips, objective, learned, model, optimiser, workers, _averaging(model, config))

    trainer = begin(split, fit=checkpoint is None)
    if checkpoint is None:
        state, best = State(), _weights(trainer.judged)
    else:
        state, best = _load_checkpoint(checkpoint, trainer)
    if workers.rank == 0:
        write_config(run, config, store, clips, objective.targets, split, trainer.model, command)

    reported = time.monotonic()

    def save(line: dict[str, Any]) -> None:
        nonlocal reported
        if workers.agree(time.monotonic() - reported >= checkpoint_seconds):
            folder = None
            if workers.rank == 0:
                name = f"refit-{state.refit_epoch}" if state.refit_epoch else f"epoch-{state.epoch}"
                folder = _save_checkpoint(scratch / name, trainer, best, state)
            report(line, folder)
            reported = time.monotonic()

    while state.epoch < config.train.epochs and state.epoch - state.best_epoch < config.train.patience and not state.stopped:
        began = time.perf_counter()
        state.epoch += 1
        train_loss = trainer.epoch(state.epoch)
        trained = time.perf_counter() - began
        valid = trainer.evaluate(split.valid)
        is_best = valid["loss"] < state.best_loss - config.train.min_improvement
        if is_best:
            state.best_epoch, state.best_loss, best = state.epoch, valid["loss"], _weights(trainer.judged)
        state.seconds += time.perf_counter() - began
        line = {
            "epoch": state.epoch,
            "train_loss": train_loss,
            **{f"valid_{k}": v for k, v in valid.items()},
            "learning_rate": config.train.learning_rate,
            "seconds": time.perf_counter() - began,
            "clips_per_second": len(split.train) / trained,
            "workers": workers.count,
            "best": is_best,
        }
        state.history.append(line)
        if workers.rank == 0:
            run.write("metrics.jsonl", "".join(json.dumps(h) + "\n" for h in state.history).encode())
        if stop is not None:
            state.stopped = workers.agree(workers.rank == 0 and stop(state.history))
        save(line)

    if not state.best_epoch:
        raise Diverged("the validation loss was never a number: training diverged; lower train.learning_rate")
    final = best
    if config.train.refit:
        both = replace(split, train=np.concatenate([split.train, split.valid]))
        if state.refit_epoch:
            resumed = trainer.model, trainer.optimiser, workers, trainer.averaged
            trainer = _Trainer(config, clips, objective, both, *resumed)
        else:
            trainer = begin(both, fit=True)
        while state.refit_epoch < state.best_epoch:
            began = time.perf_counter()
            state.refit_epoch += 1
            train_loss = trainer.epoch(state.refit_epoch)
            state.seconds += (taken := time.perf_counter() - began)
            again = {"refit_epoch": state.refit_epoch, "train_loss": train_loss, "clips_per_second": len(both.train) / taken}
            save({**state.history[-1], **again})
        final = _weights(trainer.judged)
    model = trainer.judged
    outputs = {}
    for side, weights in (("valid", best), ("test", final)) if test else (("valid", best),):
        model.load_state_dict(weights)
        outputs[side] = trainer.predict(split.side(side))
    model.load_state_dict(final)
    if workers.rank == 0:
        about = {
            "model_id": save_model(run, card, _weights(model), preparation.normaliser),
            "best_epoch": state.best_epoch,
            "epochs": state.epoch,
            "seconds": state.seconds,
            "stopped": state.stopped,
        }
        write_results(run, card, store, clips, objective, split, model, outputs, about)


def open_test(url: str, store: StoreIndex, clips: ClipSet) -> dict[str, Any]:
    """Test a run that was trained with its test set closed, as train() would have; returns its summary, which is then that of
    any run. Raises ValueError where it was tested already, or trained on other clips."""
    run = RunFolder(url)
    about, then = run.read_json("summary.json"), run.read_json("config.json")
    if about.pop("test") is not None:
        raise ValueError(f"{url} was tested already")
    if clips.digest() != then["data_digest"]:
        raise ValueError(f"{url} was trained on other data than {store.url} holds now: expected {then['data_digest']}")
    config = config_from_dict({part: then[part] for part in ("model", "train")})
    objective, split = divide(clips, config)
    model, card, _ = load_model(url)
    clips.prepare(card.normalise, card.corpus, card.pool)

    def answers(side: str) -> npt.NDArray[np.float64]:
        return predict_clips(model, clips, split.side(side), config.train.batch_size, Workers())

    # A model that was refitted has learned from the validation clips: what counts is what the first one answered.
    outputs = {"valid": _kept_outputs(run, card) if config.train.refit else answers("valid"), "test": answers("test")}
    write_results(run, card, store, clips, objective, split, model, outputs, about)
    return run.read_json("summary.json")


def _kept_outputs(run: RunFolder, card: ModelCard) -> npt.NDArray[np.float64]:
    """(n, C) what was answered to the validation clips, as outputs whose link gives what predictions.parquet holds."""
    rows = [r for r in pq.ParquetFile(io.BytesIO(run.read("predictions.parquet"))).read().to_pylist() if r["split"] == "valid"]
    prefix = "y_" if card.link == "identity" else "p_"
    values = np.array([[r[prefix + c] for c in card.classes] for r in rows], np.float64)
    with np.errstate(divide="ignore"):
        return np.log(values) if card.link == "softmax" else values


class _Trainer:
    """One worker's part in each epoch."""

    def __init__(
        self,
        config: Config,
        clips: ClipSet,
        objective: Objective,
        split: Split,
        model: Model,
        optimiser: torch.optim.Optimizer,
        workers: Workers,
        averaged: AveragedModel | None,
    ) -> None:
        self.averaged = averaged
        self.judged = model if averaged is None else cast(Model, averaged.module)
        self.config, self.clips, self.objective, self.split = config.train, clips, objective, split
        self.model, self.optimiser, self.workers = model, optimiser, workers
        self.parallel: nn.Module = nn.parallel.DistributedDataParallel(model) if workers.count > 1 else model
        self.cost = _cost(model, clips)

    def epoch(self, number: int) -> float:
        """One pass over the training clips; the mean loss."""
        rank, count = self.workers.rank, self.workers.count
        torch.manual_seed(_seed(self.config.seed, number, rank))  # dropout
        self.parallel.train()
        total = torch.zeros((), dtype=torch.float64, device=self.workers.device)
        order = _seed(self.config.seed, number, -1)
        # what each clip is taken from this epoch: itself, or an alternative
        most = max((len(names) for names in self.clips.alternatives.values()), default=0)
        drawn = np.random.default_rng(_seed(self.config.seed, number, -2)).integers(0, most + 1, len(self.clips))
        for batch in length_batches(self.cost[self.split.train], self.config.batch_size, order):
            mine = self.split.train[batch[rank::count]]
            share = 1.0
            if not len(mine):  # a last batch of fewer clips than workers: all must take part in the step
                mine, share = self.split.train[batch[:1]], 0.0
            inputs = _batch(self.model, self.clips, mine, drawn).to(self.workers.device)
            target = torch.from_numpy(self.objective.targets.learned[mine]).to(self.workers.device)
            if self.config.stream_dropout:
                inputs = Batch(inputs.values, drop_streams(inputs.lengths, self.config.stream_dropout))
            if self.config.mixup:
                inputs, target = mix(inputs, self.objective.spread(target), self.config.mixup)
            with torch.autocast(self.workers.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
                prediction = self.parallel(inputs).prediction.float()
            loss = share * self.objective.losses(prediction, target, self.config.label_smoothing).sum()
            self.optimiser.zero_grad(set_to_none=True)
            # the workers' gradients are averaged: this makes them the batch's mean
            torch.autograd.backward(loss * (count / len(batch)))
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_gradient)
            self.optimiser.step()
            if self.averaged is not None:
                self.averaged.update_parameters(self.model)
            total += loss.detach()
        return float(self.workers.total(total)) / len(self.split.train)

    def predict(self, indices: IntArray) -> npt.NDArray[np.float64]:
        return predict_clips(self.judged, self.clips, indices, self.config.batch_size, self.workers)

    def evaluate(self, indices: IntArray) -> dict[str, float]:
        outputs = self.predict(indices)
        values = apply_link(self.objective.link, outputs)
        return {"loss": self.objective.mean_loss(indices, outputs), **self.objective.score(indices, values)}


def predict_clips(
    model: Model, clips: ClipSet, indices: IntArray, batch_size: int, workers: Workers
) -> npt.NDArray[np.float64]:
    """Outputs (logits or intensities) of the given clips, (n, C), the same on every worker."""
    model.eval()
    outputs = torch.zeros(len(indices), model.outputs, dtype=torch.float64, device=workers.device)
    with torch.inference_mode():
        for j, rows in enumerate(evaluation_batches(_cost(model, clips)[indices], batch_size)):
            if j % workers.count == workers.rank:
                inputs = _batch(model, clips, indices[rows]).to(workers.device)
                outputs[torch.from_numpy(rows)] = model(inputs).prediction.double()
    return workers.total(outputs).cpu().numpy()


def _cost(model: Model, clips: ClipSet) -> npt.NDArray[np.int64]:
    """(n,) frames of each clip, over the model's streams."""
    return np.asarray(np.sum([clips.lengths[s] for s in model.streams], axis=0))


def _batch(model: Model, clips: ClipSet, indices: IntArray, drawn: IntArray | None = None) -> Batch:
    """drawn: (n,) of all clips, which of the streams' alternatives is taken; None is the streams themselves."""
    columns = {s: len(model.standardise[s].mean) for s in model.streams}  # type: ignore[arg-type]
    which = np.zeros(len(clips), np.int64) if drawn is None else drawn
    return collate([{s: clips.one_of(s, i, which[i]) for s in columns} for i in indices], columns)


def mix(batch: Batch, target_BC: Tensor, alpha: float) -> tuple[Batch, Tensor]:
    """Mixup: each clip mixed with another one, frame by frame from their starts, in one share for the step.

    Where the other has no such frame, or it was not observed, the clip's own stays as it is; so the other's length plays no
    part, and padding none either.
    """
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    share = max(share, 1 - share)  # of the clip itself: the lengths are its own
    other_B = torch.randperm(len(target_BC), device=target_BC.device)
    values = {}
    for s, x_BKF in batch.values.items():
        theirs_BKF = x_BKF[other_B]
        there_BK1 = real_frames(batch.lengths[s][other_B], x_BKF.shape[1])[..., None]
        mixed = torch.lerp(theirs_BKF, x_BKF, share)
        values[s] = torch.where(there_BK1 & ~torch.isnan(mixed), mixed, x_BKF)
    return Batch(values, batch.lengths), torch.lerp(target_BC[other_B], target_BC, share)


def drop_streams(lengths: dict[str, Tensor], chance: float) -> dict[str, Tensor]:
    """Lengths (B,) by stream in which each stream that a clip has is absent with the given chance, and one at least stays."""
    lengths_SB = torch.stack(list(lengths.values()))
    draw_SB = torch.rand(lengths_SB.shape, device=lengths_SB.device).masked_fill(lengths_SB == 0, -1.0)
    keep_SB = (draw_SB >= chance).scatter(0, draw_SB.argmax(0, keepdim=True), True)
    return dict(zip(lengths, (lengths_SB * keep_SB).unbind(0), strict=True))


def keep_freed_memory() -> None:
    """Have the C library keep what a step frees for the next one, where it can be told so: giving large temporaries back to
    the system and getting them again, page by page, costs a step on the CPU about a tenth of its time."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):  # glibc
            m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
            library.mallopt(m_mmap_threshold, 1 << 30)
            library.mallopt(m_trim_threshold, (1 << 31) - 1)
            library.mallopt(m_top_pad, 64 << 20)


def fit_standardisation(model: Model, clips: ClipSet, indices: IntArray, workers: Workers) -> None:
    """Set each stream's mean and deviation from the real, observed frames of the given clips, and of no others."""
    for s in model.streams:
        layer: Any = model.standardise[s]
        sums = np.zeros((3, len(layer.mean)))
        for i in indices[workers.rank :: workers.count]:
            if len(x_KF := clips.values(s, i)):
                of_clip = Moments.of(x_KF)
                sums += np.stack([of_clip.observed, of_clip.first, of_clip.second])
        everyone = workers.total(torch.from_numpy(sums).to(workers.device)).cpu().numpy()
        for statistic, found in zip((layer.mean, layer.std), Moments(len(indices), *everyone).scale(), strict=True):
            statistic.copy_(torch.from_numpy(found))


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence([p & 0xFFFFFFFF for p in parts]).generate_state(1)[0])


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}


def _averaging(model: Model, config: Config) -> AveragedModel | None:
    """A running average of the model's weights, if it is asked for. It begins short, for the first weights know nothing."""
    decay = config.train.average
    if not decay:
        return None

    def update(averages: Sequence[Tensor], weights: Sequence[Tensor], steps: Tensor | int) -> None:
        n = int(steps)
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, 1 - min(decay, n / (n + WARM_STEPS)))

    return AveragedModel(model, multi_avg_fn=update)


def _save_checkpoint(folder: Path, trainer: _Trainer, best: dict[str, Tensor], state: State) -> Path:
    folder.mkdir(parents=True)
    moments = {f"{i}.{k}": v for i, slots in trainer.optimiser.state_dict()["state"].items() for k, v in slots.items()}
    if trainer.averaged is not None:
        safetensors.torch.save_file(_weights(trainer.averaged), folder / "averaged.safetensors")
    safetensors.torch.save_file(_weights(trainer.model), folder / "model.safetensors")
    safetensors.torch.save_file(best, folder / "best.safetensors")
    safetensors.torch.save_file(moments, folder / "optimiser.safetensors")
    (folder / "state.json").write_text(json.dumps(asdict(state)))
    return folder


def _load_checkpoint(folder: Path, trainer: _Trainer) -> tuple[State, dict[str, Tensor]]:
    trainer.model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    if trainer.averaged is not None:
        trainer.averaged.load_state_dict(safetensors.torch.load_file(folder / "averaged.safetensors"))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in safetensors.torch.load_file(folder / "optimiser.safetensors").items():
        index, _, name = key.partition(".")
        slots.setdefault(int(index), {})[name] = value
    trainer.optimiser.load_state_dict({**trainer.optimiser.state_dict(), "state": slots})
    state = State(**json.loads((folder / "state.json").read_text()))
    return state, safetensors.torch.load_file(folder / "best.safetensors")
