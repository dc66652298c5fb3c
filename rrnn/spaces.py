"""Spaces of configurations to search: what may vary, over what, and around which base. Pure data.

A named space is a function that returns a Space; `python -m jobs.tune --list` shows them. One's own is a YAML or JSON file:

    about: how wide, and how fast
    base: {train: {batch_size: 64}}
    dimensions:
      model.architecture: {choice: [rrnn, late]}
      model.hidden: {int: [16, 128]}
      model.hops: {int: [1, 5], when: {model.architecture: [rrnn]}}
      train.learning_rate: {loguniform: [0.0003, 0.01]}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml

from rrnn.config import Config, ModelConfig, TrainConfig, config_from_dict, merge

Value = str | int | float | bool | None
Choices = dict[str, Value]
"""Of each dimension that is active, by dotted key of the configuration, its value: what a trial is."""
Kind = Literal["choice", "uniform", "loguniform", "int"]

PROBES = 300
"""Configurations that are drawn and checked when a space is built, so that one that can't be is an error before any trial."""
MAY_NOT_VARY = {
    "train.split": "it decides who is tested",
    "train.folds": "it decides who is tested",
    "train.test_fold": "it decides who is tested",
    "train.valid_share": "it decides on whom trials are compared",
    "train.seed": "it decides on whom trials are compared",
    "train.epochs": "the budget is --epochs, the same for all",
}


@dataclass(frozen=True)
class Dimension:
    """What one key of the configuration may be. values: the choices, or the smallest and largest value, both included.
    when: values of dimensions before it that it needs; without them it keeps the base's value."""

    kind: Kind
    values: tuple[Value, ...]
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind == "choice":
            if not self.values:
                raise ValueError("choice has no values: expected at least one")
            if len({(type(v), v) for v in self.values}) < len(self.values):
                raise ValueError(f"choice has a value twice: {list(self.values)}")
            return
        low, high = self.bounds
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"{self.kind} goes from {low} to {high}: expected the smaller first, and both finite")
        if self.kind == "loguniform" and low <= 0:
            raise ValueError(f"loguniform starts at {low}: expected more than 0")
        if self.kind == "int" and not (low.is_integer() and high.is_integer()):
            raise ValueError(f"int goes from {low} to {high}: expected whole numbers")

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = self.values
        return float(low), float(high)  # type: ignore[arg-type]

    def draw(self, random: np.random.Generator) -> Value:
        """Each choice or whole number as likely; uniform, or uniform in the logarithm."""
        if self.kind == "choice":
            return self.values[int(random.integers(len(self.values)))]
        low, high = self.bounds
        if self.kind == "int":
            return int(random.integers(int(low), int(high) + 1))
        if self.kind == "uniform":
            return float(random.uniform(low, high))
        return float(np.clip(np.exp(random.uniform(np.log(low), np.log(high))), low, high))

    def __str__(self) -> str:
        low_high = f"{self.values[0]} to {self.values[-1]}"
        what = ", ".join(map(show, self.values)) if self.kind == "choice" else low_high
        how = {"choice": "", "int": "", "uniform": "", "loguniform": ", by its logarithm"}[self.kind]
        when = " and ".join(f"{key} is {' or '.join(map(show, of))}" for key, of in self.when.items())
        return what + how + (f" (when {when})" if when else "")

    def to_dict(self) -> dict[str, Any]:
        """As in a space's file."""
        when = {"when": {k: list(v) for k, v in self.when.items()}} if self.when else {}
        return {self.kind: list(self.values), **when}


def show(value: Value) -> str:
    """A value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Space:
    """Configurations: the base with the values of the dimensions laid over it. Raises ValueError, naming the key, where a
    dimension is none of the configuration, may not vary, or leads to a configuration that can't be."""

    name: str
    about: str
    base: Config
    dimensions: Mapping[str, Dimension]

    def __post_init__(self) -> None:
        known = {f"{part}.{f.name}" for part, of in (("model", ModelConfig), ("train", TrainConfig)) for f in fields(of)}
        before: dict[str, Dimension] = {}
        for key, dimension in self.dimensions.items():
            if key not in known:
                raise ValueError(f"space {self.name}: {key} is no key of the configuration: expected one such as model.hidden")
            if key in MAY_NOT_VARY and len(dimension.values) > 1:
                raise ValueError(f"space {self.name}: {key} may not vary: {MAY_NOT_VARY[key]}. Expected it in the base")
            for other, needed in dimension.when.items():
                if other not in before:
                    raise ValueError(f"space {self.name}: {key} depends on {other}: expected a dimension that stands before it")
                if self.dimensions[other].kind != "choice" or not needed:
                    raise ValueError(f"space {self.name}: {key} depends on {other}: expected some values of a choice")
            before[key] = dimension
        random = np.random.default_rng(0)
        for _ in range(PROBES):
            choices = self.draw(lambda _, dimension: dimension.draw(random))
            try:
                self.config(choices)
            except ValueError as e:
                shown = ", ".join(f"{k}={show(v)}" for k, v in choices.items())
                raise ValueError(f"space {self.name}: {shown} can't be: {e}. Expected a `when` that excludes it") from e

    def draw(self, pick: Callable[[str, Dimension], Value]) -> Choices:
        """Have a value picked for each dimension in turn, where what it needs was picked before."""
        choices: Choices = {}
        for key, dimension in self.dimensions.items():
            if all(other in choices and choices[other] in needed for other, needed in dimension.when.items()):
                choices[key] = pick(key, dimension)
        return choices

    def config(self, choices: Choices) -> Config:
        """The configuration of a trial. Raises ValueError where it can't be."""
        return config_from_dict(merge(self.base.to_dict(), nested(choices)))

    def fixed(self, changes: Mapping[str, Any]) -> Space:
        """The space with nested changes laid over its base; a dimension among them no longer varies."""
        dimensions, base = dict(self.dimensions), self.base.to_dict()
        for key, value in flat(changes).items():
            if key in dimensions:
                dimensions[key] = Dimension("choice", (value,), dimensions[key].when)
            else:
                base = merge(base, nested({key: value}))
        return replace(self, base=config_from_dict(base), dimensions=dimensions)

    def varying(self) -> dict[str, Dimension]:
        return {key: d for key, d in self.dimensions.items() if d.kind != "choice" or len(d.values) > 1}

    def to_dict(self) -> dict[str, Any]:
        """As in a space's file, with the base in full, and the name."""
        dimensions = {key: d.to_dict() for key, d in self.dimensions.items()}
        return {"name": self.name, "about": self.about, "base": self.base.to_dict(), "dimensions": dimensions}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"model.hops": 3} as {"model": {"hops": 3}}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        found = merge(found, value)
    return found


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"model": {"hops": 3}} as {"model.hops": 3}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) and value else {f"{above}{key}": value}
    return found


# --- named spaces ----------------------------------------------------------------------------------------------------


def one_of(*values: Value, **when: tuple[Value, ...]) -> Dimension:
    """Keys of `when` are options of the model."""
    return Dimension("choice", values, {f"model.{k}": v for k, v in when.items()})


def whole(low: int, high: int, **when: tuple[Value, ...]) -> Dimension:
    return Dimension("int", (low, high), {f"model.{k}": v for k, v in when.items()})


ATTENDS = ("rrnn", "early")


def fusion() -> Space:
    """How streams are fused: the paper's model, early or late fusion, and what the first two leave open."""
    return Space(
        "fusion",
        (fusion.__doc__ or "").strip(),
        Config(experiment="fusion"),
        {
            "model.architecture": one_of("rrnn", "early", "late"),
            "model.hops": whole(1, 5, architecture=ATTENDS),
            "model.tied": one_of(False, True, architecture=ATTENDS),
            "model.gate": one_of("joint", "per_modality", "both", "none", architecture=ATTENDS),
            "model.align": one_of("multiplicative", "concatenative", architecture=ATTENDS),
            "model.align_size": one_of(16, 32, 64, 128, architecture=ATTENDS),
            "model.heads": one_of(1, 2, 4, architecture=ATTENDS),
            "model.memory": one_of("mean", "zero", architecture=ATTENDS),
        },
    )


def training() -> Space:
    """How the paper's model is trained: rate, regularisation, size."""
    return Space(
        "training",
        (training.__doc__ or "").strip(),
        Config(experiment="training"),
        {
            "train.learning_rate": Dimension("loguniform", (3e-4, 1e-2)),
            "model.dropout": Dimension("uniform", (0.0, 0.6)),
            "train.weight_decay": Dimension("loguniform", (1e-6, 1e-1)),
            "train.mixup": one_of(0.0, 0.2, 1.0),
            "model.skip": one_of(False, True),
            "model.hidden": one_of(32, 64, 128, 256),
        },
    )


def made() -> Space:
    """Small models for the made tasks (jobs.made_task), of which it is known what they need: see docs/model.md."""
    return Space(
        "made",
        (made.__doc__ or "").strip(),
        Config(
            experiment="made",
            model=ModelConfig(hidden=32, dropout=0.1),
            train=TrainConfig(loss="cross_entropy", epochs=18, batch_size=128, learning_rate=6e-3),
        ),
        {
            "model.architecture": one_of("rrnn", "late"),
            "model.hops": whole(1, 3, architecture=("rrnn",)),
            "model.tied": one_of(False, True, architecture=("rrnn",)),
            "model.gate": one_of("joint", "per_modality", "none", architecture=("rrnn",)),
            "model.memory": one_of("mean", "zero", architecture=("rrnn",)),
        },
    )


SPACES: dict[str, Callable[[], Space]] = {f.__name__: f for f in (fusion, training, made)}


def open_space(name: str) -> Space:
    """A named space, or one's own from a .yaml, .yml or .json file. Raises ValueError that says what is wrong with it."""
    if name in SPACES:
        return SPACES[name]()
    if not name.endswith((".yaml", ".yml", ".json")):
        raise ValueError(f"unknown space {name!r}: expected one of {', '.join(SPACES)}, or a .yaml or .json file")
    try:
        found = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ValueError(f"{name}: can't be read as YAML: {' '.join(str(e).split())}") from None
    return space_from_dict(found, name)


def space_from_dict(found: Any, name: str) -> Space:
    """A space as a file holds it. Raises ValueError that names the file and the key."""
    if not isinstance(found, dict) or not isinstance(found.get("dimensions"), dict) or not found["dimensions"]:
        raise ValueError(f"{name}: expected a mapping with `dimensions`, a mapping of keys such as model.hidden")
    if unknown := found.keys() - {"name", "about", "base", "dimensions"}:
        raise ValueError(f"{name}: unknown {', '.join(map(str, sorted(unknown)))}: expected about, base and dimensions")
    if not isinstance(found.get("base", {}), dict):
        raise ValueError(f"{name}: base: expected a mapping such as {{model: {{hidden: 64}}}}, found {found['base']!r}")
    try:
        base = config_from_dict(found.get("base", {}))
    except ValueError as e:
        raise ValueError(f"{name}: base: {e}") from e
    dimensions = {}
    for key, about in found["dimensions"].items():
        try:
            dimensions[str(key)] = _dimension(about)
        except ValueError as e:
            raise ValueError(f"{name}: {key}: {e}") from e
    return Space(str(found.get("name", Path(name).stem)), str(found.get("about", "")), base, dimensions)


def _dimension(about: Any) -> Dimension:
    kinds: tuple[Kind, ...] = get_args(Kind)
    if not isinstance(about, dict) or len(about.keys() & set(kinds)) != 1 or about.keys() - {*kinds, "when"}:
        raise ValueError(f"expected one of {', '.join(kinds)}, and perhaps `when`; found {about!r}")
    kind = next(k for k in kinds if k in about)
    values, when = about[kind], about.get("when", {})
    if not isinstance(values, list) or not all(isinstance(v, Value) for v in values):
        raise ValueError(f"{kind}: expected a list of plain values, found {values!r}")
    if kind != "choice":
        try:
            values = [float(v) for v in values]  # YAML takes 1e-4 for text
        except (TypeError, ValueError):
            raise ValueError(f"{kind}: expected two numbers, found {values!r}") from None
        if len(values) != 2:
            raise ValueError(f"{kind}: expected two numbers, the smallest and the largest, found {values!r}")
        if kind == "int":
            values = [int(v) if v.is_integer() else v for v in values]
    if not isinstance(when, dict) or not all(isinstance(v, list) for v in when.values()):
        raise ValueError(f"when: expected keys with lists of values, found {when!r}")
    return Dimension(kind, tuple(values), {str(k): tuple(v) for k, v in when.items()})
