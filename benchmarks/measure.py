"""Ratios of things that run in turn, and the table that they make."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Target:
    """What a ratio should be: at least, or at most, a value."""

    value: float
    at_least: bool

    def met(self, ratio: float) -> bool:
        return ratio >= self.value if self.at_least else ratio <= self.value

    def __str__(self) -> str:
        return f"at {'least' if self.at_least else 'most'} {self.value:g}"


@dataclass(frozen=True)
class Row:
    """One line of the table. ratios: ours over the peer's, one a turn."""

    what: str
    ours: str
    peer: str
    ratios: Sequence[float]
    target: Target | None = None


def in_turn(sides: Mapping[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
    """Call every side once a turn, turn after turn; what each returned, in order."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            found[name].append(side())
    return found


def ratios(ours: Sequence[float], peer: Sequence[float]) -> list[float]:
    """Turn by turn, so that a machine which slows down for a while slows both sides of a ratio."""
    return [a / b for a, b in zip(ours, peer, strict=True)]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def milliseconds(seconds: Sequence[float]) -> str:
    return f"{1e3 * median(seconds):.3g} ms"


def table(rows: Sequence[Row]) -> Table:
    found = Table("what", "ours", "floor or peer", "ratio", "min to max", "target", box=None, pad_edge=False)
    for row in rows:
        ratio = median(row.ratios)
        verdict = "" if row.target is None else f"{row.target}{'' if row.target.met(ratio) else ': MISSED'}"
        found.add_row(row.what, row.ours, row.peer, f"{ratio:.3f}", f"{min(row.ratios):.3f} to {max(row.ratios):.3f}", verdict)
    return found
