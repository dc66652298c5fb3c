"""Labels that raters gave: their majority, and their shares."""

from __future__ import annotations

from collections.abc import Mapping

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
