"""Named experiments: each a function that returns a whole configuration. `python -m jobs.train --list` shows them.

First the rows of the paper's tables, with the paper's sizes and loss, for a store of its corpus; the streams are those of the
store that have the named modalities. Then what we recommend for few clips, and its variants. All take changes behind their
names: `python -m jobs.train STORE --out RUN ravdess_gca train.seed=1 train.test_fold=2`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rrnn.config import Config, Modality, ModelConfig, TrainConfig

EXPERIMENTS: dict[str, Callable[[], Config]] = {}


def _named(function: Callable[[], Config]) -> Callable[[], Config]:
    def named() -> Config:
        return replace(function(), experiment=function.__name__)

    named.__doc__ = function.__doc__
    EXPERIMENTS[function.__name__] = named
    return named


@_named
def rrnn() -> Config:
    """The paper's model on all streams of the store: three hops, untied attention, joint gating, memory from the mean."""
    return Config()


@_named
def demo() -> Config:
    """What `make demo` trains: a small model that is done in about a minute on two cores."""
    return Config(
        model=ModelConfig(hidden=48),
        train=TrainConfig(epochs=40, patience=10, batch_size=16, learning_rate=3e-3, folds=4),
    )


# -- the paper's tables


def _acted(*modalities: Modality, **model: Any) -> Config:
    """CREMA-D and RAVDESS: 2 x 128 encoders, L2 over one-hot targets (sec. 4)."""
    return Config(ModelConfig(**model), TrainConfig(loss="l2"), modalities=modalities)


def _mosei(*modalities: Modality, **model: Any) -> Config:
    """CMU-MOSEI: 2 x 512 encoders, L2 summed over the intensities (sec. 4)."""
    return Config(ModelConfig(hidden=512, **model), TrainConfig(loss="l2"), modalities=modalities)


@_named
def crema_d_audio() -> Config:
    """Table 1, COVAREP features + LSTM decoder: accuracy 41.5 % (people 40.9). Not timed."""
    return _acted("audio", architecture="late")


@_named
def crema_d_vision() -> Config:
    """Table 1, OpenFace features + LSTM decoder: accuracy 52.5 % (people 58.2). Not timed."""
    return _acted("vision", architecture="late")


@_named
def crema_d_gca() -> Config:
    """Table 1, dual attention over vision and audio: accuracy 65.0 % (people 63.6). Not timed."""
    return _acted("audio", "vision", gate="none")


@_named
def ravdess_audio() -> Config:
    """Table 2, audio, COVAREP, no attention: accuracy 41.25 %. About 2 minutes a fold on two cores."""
    return _acted("audio", architecture="late")


@_named
def ravdess_vision() -> Config:
    """Table 2, vision, OpenFace, no attention: accuracy 52.08 %. About 1 minute a fold on two cores."""
    return _acted("vision", architecture="late")


@_named
def ravdess_gca() -> Config:
    """Table 2, audio + vision, GCA: accuracy 58.33 %. About 3 minutes a fold on two cores."""
    return _acted("audio", "vision", gate="none")


@_named
def mosei_text() -> Config:
    """Table 3, text, word vectors: MSE 0.6326, MAE 0.9830, WA 0.5485. Not timed; use a GPU."""
    return _mosei("text", architecture="late")


@_named
def mosei_audio() -> Config:
    """Table 3, audio, COVAREP: MSE 0.6049, MAE 1.0562, WA 0.5249. Not timed; use a GPU."""
    return _mosei("audio", architecture="late")


@_named
def mosei_vision() -> Config:
    """Table 3, vision, FACET: MSE 0.5026, MAE 0.9909, WA 0.5476. Not timed; use a GPU."""
    return _mosei("vision", architecture="late")


@_named
def mosei_early() -> Config:
    """Table 3, all three, early fusion: MSE 0.5319, MAE 0.7694, WA 0.5188. Not timed; use a GPU."""
    return _mosei("audio", "vision", "text", architecture="early")


@_named
def mosei_late() -> Config:
    """Table 3, all three, late fusion: MSE 0.5047, MAE 0.9825, WA 0.5889. Not timed; use a GPU."""
    return _mosei("audio", "vision", "text", architecture="late")


@_named
def mosei_gca() -> Config:
    """Table 3, all three, GCA: MSE 0.4696, MAE 0.9412, WA 0.6163; with noise on vision (jobs.ablate) 0.5034, 0.9920, 0.6068.
    Not timed; use a GPU."""
    return _mosei("audio", "vision", "text", gate="none")


@_named
def mosei_gating() -> Config:
    """Table 3, all three, GCA + gating: MSE 0.4691, MAE 0.8705, WA 0.5765; with noise on vision (jobs.ablate) 0.4742, 0.8857,
    0.5688. Not timed; use a GPU."""
    return _mosei("audio", "vision", "text")


# -- few clips, such as RAVDESS: what we recommend (docs/experiments.md), and its variants


def _few(*modalities: Modality, **model: Any) -> Config:
    if model.get("architecture") != "late":  # which has no memory
        model = {"deviations": True, **model}
    return Config(
        ModelConfig(**{"hidden": 64, "skip": True, "dropout": 0.5, **model}),
        TrainConfig(mixup=1.0, average=0.99, epochs=40, patience=40, pool_seconds=0.16, refit=True),
        modalities=modalities or None,
    )


@_named
def few() -> Config:
    """For some hundred clips: all streams of the store, a linear path beside the LSTMs, deviations beside averages,
    mixup, frames of 0.16 s, averaged weights, and a second training on the validation clips too. Two minutes a fold of RAVDESS
    on one core. Add train.normalise=speaker where scoring will have several clips of each speaker."""
    return _few()


@_named
def few_audio() -> Config:
    """The same, audio alone. Two minutes a fold of RAVDESS on one core."""
    return _few("audio")


@_named
def few_vision() -> Config:
    """The same, vision alone."""
    return _few("vision")


@_named
def few_lstm_audio() -> Config:
    """The unimodal LSTM under the same conditions: audio alone, no attention."""
    return _few("audio", architecture="late")


@_named
def few_early() -> Config:
    """Early fusion under the same conditions."""
    return _few(architecture="early")


@_named
def few_late() -> Config:
    """Late fusion under the same conditions."""
    return _few(architecture="late")


@_named
def few_gca() -> Config:
    """GCA without gating under the same conditions."""
    return _few(gate="none")


@_named
def few_tied() -> Config:
    """GCA + gating with attention tied across the hops, under the same conditions."""
    return _few(tied=True)


@_named
def few_hops1() -> Config:
    """One hop, under the same conditions."""
    return _few(hops=1)


@_named
def few_hops2() -> Config:
    """Two hops, under the same conditions."""
    return _few(hops=2)


@_named
def few_hops5() -> Config:
    """Five hops, under the same conditions."""
    return _few(hops=5)


def experiment(name: str) -> Config:
    """A named configuration. Raises ValueError for a name that is not one."""
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}: expected one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]()
