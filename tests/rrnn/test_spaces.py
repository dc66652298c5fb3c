"""Spaces: what is drawn from them can be, and what is wrong with one is said before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrnn.config import Config, ModelConfig
from rrnn.spaces import SPACES, Choices, Dimension, Space, flat, nested, one_of, open_space, space_from_dict


def draws(space: Space, n: int) -> list[Choices]:
    random = np.random.default_rng(1)
    return [space.draw(lambda _, dimension: dimension.draw(random)) for _ in range(n)]


@pytest.mark.parametrize("name", SPACES)
def test_all_that_a_named_space_draws_can_be(name: str) -> None:
    space = open_space(name)
    for choices in draws(space, 200):
        config = space.config(choices)
        assert {k: flat(config.to_dict())[k] for k in choices} == choices


def test_a_dimension_is_there_only_with_what_it_needs() -> None:
    for choices in draws(open_space("fusion"), 200):
        assert ("model.hops" in choices) == (choices["model.architecture"] in ("rrnn", "early"))


def test_numbers_are_drawn_from_where_they_may_be() -> None:
    random = np.random.default_rng(0)
    found = [Dimension("loguniform", (1e-4, 1e-2)).draw(random) for _ in range(2000)]
    assert 1e-4 <= min(found) < 2e-4 < 5e-3 < max(found) <= 1e-2  # type: ignore[type-var, operator]
    assert np.median(np.array(found, float)) == pytest.approx(1e-3, rel=0.15)
    assert {Dimension("int", (1, 3)).draw(random) for _ in range(100)} == {1, 2, 3}
    assert {Dimension("choice", (None, "x", True)).draw(random) for _ in range(100)} == {None, "x", True}


def test_a_file_is_the_space_that_it_describes(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        """
        about: mine
        base: {model: {hidden: 16}}
        dimensions:
          model.architecture: {choice: [rrnn, late]}
          model.hops: {int: [1, 5], when: {model.architecture: [rrnn]}}
          train.learning_rate: {loguniform: [1e-4, 1e-2]}
        """
    )
    space = open_space(str(tmp_path / "mine.yaml"))
    assert space == Space(
        "mine",
        "mine",
        Config(model=ModelConfig(hidden=16)),
        {
            "model.architecture": one_of("rrnn", "late"),
            "model.hops": Dimension("int", (1, 5), {"model.architecture": ("rrnn",)}),
            "train.learning_rate": Dimension("loguniform", (1e-4, 1e-2)),
        },
    )
    for each in (space, *(open_space(name) for name in SPACES)):
        assert space_from_dict(each.to_dict(), "other name") == each


def test_what_is_fixed_no_longer_varies() -> None:
    space = open_space("fusion").fixed({"model": {"hops": 2, "hidden": 16}, "streams": ["a"]})
    assert "model.hops" not in space.varying()
    assert space.base.streams == ("a",)
    for choices in draws(space, 50):
        config = space.config(choices)
        assert config.model.hidden == 16
        assert config.model.hops == (2 if config.model.architecture != "late" else ModelConfig().hops)


@pytest.mark.parametrize(
    ("dimensions", "why"),
    [
        ({"model.hoops": {"int": [1, 2]}}, "model.hoops is no key of the configuration"),
        ({"model.hops": {"int": [3, 1]}}, "model.hops: int goes from 3.0 to 1.0: expected the smaller first"),
        ({"model.hops": {"int": [1.5, 3]}}, "expected whole numbers"),
        ({"model.hops": {"int": [1, 2, 3]}}, "expected two numbers, the smallest and the largest"),
        ({"model.hops": {"int": ["one", 3]}}, "expected two numbers, found"),
        ({"model.hops": [1, 2]}, r"model.hops: expected one of choice, uniform, loguniform, int, and perhaps `when`"),
        ({"model.hops": {"int": [1, 2], "choice": [1]}}, "expected one of choice, uniform"),
        ({"model.hops": {"choice": []}}, "choice has no values"),
        ({"model.hops": {"choice": [1, 1]}}, "a value twice"),
        ({"model.hops": {"choice": [0, 1]}}, r"model.hops=0 can't be: model.hops: .* greater than or equal to 1"),
        ({"train.learning_rate": {"loguniform": [0, 1]}}, "loguniform starts at 0.0: expected more than 0"),
        ({"model.dropout": {"uniform": [0.0, float("inf")]}}, "both finite"),
        ({"train.test_fold": {"int": [0, 4]}}, "train.test_fold may not vary: it decides who is tested"),
        ({"train.seed": {"int": [0, 4]}}, "train.seed may not vary: it decides on whom trials are compared"),
        ({"model.hops": {"int": [1, 2], "when": {"model.gate": ["none"]}}}, "depends on model.gate: expected a dimension"),
        (
            {"model.architecture": {"choice": ["rrnn", "late"]}, "model.hops": {"int": [1, 5]}},
            r"does not use hops.*Expected a `when` that excludes it",
        ),
        ({}, "expected a mapping with `dimensions`"),
    ],
)
def test_what_is_wrong_with_a_space_is_said(dimensions: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        space_from_dict({"dimensions": dimensions}, "mine")


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("dimensions: {model.hops: {int: [1, 2]}}\nbase: {model: {hidden: -3}}")
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.yaml").write_text("dimensions: {model.hops: {int: [1, 2]}}\ntrials: 3")
    for name, why in (
        ("a.yaml", "a.yaml: base: model.hidden: .* found -3"),
        ("b.json", "can't be read as YAML"),
        ("c.yaml", "unknown trials: expected about, base and dimensions"),
    ):
        with pytest.raises(ValueError, match=why):
            open_space(str(tmp_path / name))
    with pytest.raises(ValueError, match="unknown space 'fusoin': expected one of fusion"):
        open_space("fusoin")


def test_dotted_keys_nest_and_flatten() -> None:
    assert nested({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
    assert flat({"a": {"b": 1, "c": 2}, "d": 3}) == {"a.b": 1, "a.c": 2, "d": 3}
