"""Named experiments: each a function that returns a whole configuration. `python -m jobs.train --list` shows them."""

from __future__ import annotations

from collections.abc import Callable

from rrnn.config import Config, ModelConfig, TrainConfig


def rrnn() -> Config:
    """The paper's model on all streams of the store: three hops, untied attention, joint gating, memory from the mean."""
    return Config(experiment="rrnn")


def demo() -> Config:
    """What `make demo` trains: a small model that is done in about a minute on two cores."""
    return Config(
        experiment="demo",
        model=ModelConfig(hidden=48),
        train=TrainConfig(epochs=40, patience=10, batch_size=16, learning_rate=3e-3, folds=4),
    )


EXPERIMENTS: dict[str, Callable[[], Config]] = {f.__name__: f for f in (rrnn, demo)}


def experiment(name: str) -> Config:
    """A named configuration. Raises ValueError for a name that is not one."""
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}: expected one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]()
