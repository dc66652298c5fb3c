"""Normalisation by speaker, or by corpus: each column's mean and deviation over all clips of one speaker are taken out.

Speakers differ in pitch, loudness and face more than their emotions do. No label is used, so a speaker's own clips serve on
whichever side they are, in training as in scoring; that a speaker's other clips are there is what it takes. What comes out is
standardised once more over the training clips, like anything that a model is fed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

SCHEMA = pa.schema(
    [
        ("group", pa.string()),
        ("stream", pa.string()),
        ("clips", pa.int64()),
        *((name, pa.list_(pa.float64())) for name in ("observed", "first", "second")),
    ]
)
POOLED = ""
"""The group of clips that have none of their own (no speaker is known): all clips together."""


@dataclass(frozen=True)
class Moments:
    """Of one stream of some clips. observed, first, second: (F,), how many values of each column, their sum, and that of their
    squares. Moments add up."""

    clips: int
    observed: Doubles
    first: Doubles
    second: Doubles

    @classmethod
    def of(cls, x_KF: Floats) -> Moments:
        """Of one clip."""
        seen = ~np.isnan(x_KF)
        x = np.where(seen, x_KF, 0.0).astype(np.float64)
        return cls(1, seen.sum(0).astype(np.float64), x.sum(0), np.square(x).sum(0))

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.clips + other.clips,
            self.observed + other.observed,
            self.first + other.first,
            self.second + other.second,
        )

    def scale(self) -> tuple[Floats, Floats]:
        """Mean and deviation (F,) of each column; 0 and 1 of one that was never observed, and 1 for one that never varies."""
        count = np.maximum(self.observed, 1)
        mean = self.first / count
        variance = np.maximum(self.second / count - np.square(mean), 0)
        constant = variance <= 1e-12 * (1 + np.square(mean))
        return mean.astype(np.float32), np.where(constant, 1.0, np.sqrt(variance)).astype(np.float32)


def group_of(by: str, corpus: str, speaker: str | None) -> str:
    """Whose statistics a clip is normalised by: two corpora may both have a speaker "01"."""
    if by == "corpus":
        return corpus
    return POOLED if speaker is None else f"{corpus}/{speaker}"


class Normaliser:
    """Statistics of groups of clips, and what they make of a clip."""

    def __init__(self, moments: Mapping[tuple[str, str], Moments]) -> None:
        """moments: by group and stream, those of POOLED among them."""
        self.moments = dict(moments)
        self._scales: dict[tuple[str, str], tuple[Floats, Floats]] = {}

    @classmethod
    def fit(cls, clips: Iterable[tuple[str, str, Floats]]) -> Normaliser:
        """clips: group, stream and (K, F) frames of each."""
        groups = add_up((group, stream, Moments.of(x_KF)) for group, stream, x_KF in clips)
        return cls(groups | add_up((POOLED, stream, moments) for (_, stream), moments in groups.items()))

    def apply(self, group: str, stream: str, x_KF: Floats) -> Floats:
        """The frames, normalised; by all clips together where the group is not known, and as they are where no clip had any."""
        key = (group, stream) if (group, stream) in self.moments else (POOLED, stream)
        if key not in self.moments:
            return x_KF
        if key not in self._scales:
            self._scales[key] = self.moments[key].scale()
        mean_F, std_F = self._scales[key]
        return (x_KF - mean_F) / std_F

    def extended(self, others: Mapping[tuple[str, str], Moments], replace: bool) -> Normaliser:
        """Also with other groups. replace: whether a group that both have is the others'."""
        new = {k: v for k, v in others.items() if k[0] != POOLED and (replace or k not in self.moments)}
        return Normaliser(self.moments | new)

    def table(self) -> pa.Table:
        return moments_table(self.moments)


def add_up(found: Iterable[tuple[str, str, Moments]]) -> dict[tuple[str, str], Moments]:
    """Moments by group and stream."""
    total: dict[tuple[str, str], Moments] = {}
    for group, stream, moments in found:
        key = (group, stream)
        total[key] = total[key] + moments if key in total else moments
    return total


def moments_table(moments: Mapping[tuple[str, str], Moments]) -> pa.Table:
    rows = [
        {
            "group": group,
            "stream": stream,
            "clips": m.clips,
            **{name: getattr(m, name).tolist() for name in ("observed", "first", "second")},
        }
        for (group, stream), m in sorted(moments.items())
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def moments_of(table: pa.Table) -> Iterable[tuple[str, str, Moments]]:
    """What moments_table() wrote."""
    row: dict[str, Any]
    for row in table.to_pylist():
        arrays = [np.array(row[name], np.float64) for name in ("observed", "first", "second")]
        yield row["group"], row["stream"], Moments(row["clips"], *arrays)
