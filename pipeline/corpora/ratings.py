"""Labels that raters gave: their majority, their shares, and how often they name the emotion that was acted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

Votes = Mapping[str, float]
"""How many raters chose which emotion."""


def majority(votes: Votes) -> str | None:
    """The emotion with the most votes; None where two or more have as many, and where nobody voted."""
    most = max(votes.values(), default=0.0)
    first = [emotion for emotion, n in votes.items() if n == most]
    return first[0] if len(first) == 1 and most > 0 else None


def shares(votes: Votes) -> dict[str, float]:
    """Each emotion's part of the votes, of sum 1. Raises ValueError where nobody voted."""
    total = sum(votes.values())
    if total <= 0:
        raise ValueError("expected one vote or more, found none")
    return {emotion: n / total for emotion, n in votes.items()}


class HumanAccuracy(NamedTuple):
    """per_response: the part of all votes, and by_majority: of all clips' majorities, that are the acted emotion; a tie is
    wrong. ties: how many of the clips have no majority."""

    per_response: float
    by_majority: float
    ties: int
    clips: int


def human_accuracy(rated: Iterable[tuple[str, Mapping[str, Votes]]]) -> dict[str, HumanAccuracy]:
    """How well raters name the acted emotion, by what they were shown; rated: of each clip, that emotion and its votes.

    Votes are pooled over clips, so a clip that more people rated weighs more. Clips without a vote are left out.
    """
    by_shown: dict[str, list[tuple[str, Votes]]] = {}
    for acted, votes_by_shown in rated:
        for shown, votes in votes_by_shown.items():
            if sum(votes.values()) > 0:
                by_shown.setdefault(shown, []).append((acted, votes))
    found = {}
    for shown, rows in by_shown.items():
        majorities = [majority(votes) for _, votes in rows]
        found[shown] = HumanAccuracy(
            per_response=sum(v.get(acted, 0.0) for acted, v in rows) / sum(sum(v.values()) for _, v in rows),
            by_majority=sum(m == acted for m, (acted, _) in zip(majorities, rows, strict=True)) / len(rows),
            ties=majorities.count(None),
            clips=len(rows),
        )
    return found
