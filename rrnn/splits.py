"""Who is trained on, who decides when to stop, who is tested: never the same speaker on two sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rrnn.config import TrainConfig

SIDES = ("train", "valid", "test")


@dataclass(frozen=True)
class Split:
    """Indices of the clips on each side; how they were divided, in words; and how many test folds there are, of which these are
    one: 1 of a fixed division."""

    train: npt.NDArray[np.int64]
    valid: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    how: str
    folds: int

    def side(self, name: str) -> npt.NDArray[np.int64]:
        indices: npt.NDArray[np.int64] = getattr(self, name)
        return indices


def split_clips(
    ids: Sequence[str],
    speakers: Sequence[str | None],
    folds: Sequence[str | None],
    keep: npt.NDArray[np.bool_],
    config: TrainConfig,
) -> Split:
    """Divide the clips for which keep is true, as config.split says.

    Folds that are named train and test, with or without valid, are one fixed division, and a clip in no fold is on no side
    of it. Of any other folds, the corpus's or dealt, one is the test part (config.test_fold). Where no fold is named valid,
    valid_share of the speakers that are not tested decides when to stop. Raises ValueError where clips have no speaker,
    speakers are too few, or a speaker would be on two sides.
    """
    kept: list[int] = np.flatnonzero(keep).tolist()
    what = "clips" if config.split == "clip" else "speakers"
    groups: dict[int, str] = {}
    nameless = [ids[i] for i in kept if speakers[i] is None]
    for i in kept:
        name = speakers[i]
        groups[i] = ids[i] if config.split == "clip" or (config.split == "given" and name is None) else str(name)
    if nameless and config.split not in ("clip", "given"):
        raise ValueError(
            f"{len(nameless)} clips have no speaker (such as {nameless[0]!r}), so none can be held out by speaker: name "
            "the speakers in the manifest, or say train.split=clip, which lets a speaker be on both sides and flatters "
            "the result"
        )
    own = {i: folds[i] for i in kept} if config.split in ("speaker", "given", "clip") else dict.fromkeys(kept)
    names = {name for name in own.values() if name is not None}
    fixed = {"train", "test"} <= names <= set(SIDES)
    if names & {*SIDES, "dev", "val", "validation"} and not fixed:
        found = ", ".join(sorted(names))
        raise ValueError(f"the clips' folds are {found}: expected train, valid and test, each with usable, labelled clips")
    outside = [i for i in kept if own[i] is None]
    if names and outside and not fixed:
        raise ValueError(f"{len(outside)} clips have no fold and others do: expected a fold for each clip, or for none")
    if config.split == "given" and not names:
        raise ValueError("train.split=given, but the clips have no folds: name them in the manifest, or with --split")

    if fixed:
        groups = {i: g for i, g in groups.items() if own[i] is not None}
        part_of = {i: str(own[i]) for i in groups}
        parts = ["test"]
        held_out, how = "test", "the corpus's own split"
        if outside:
            how += f" ({len(outside)} clips in no fold are on no side)"
    else:
        part_of, how = _parts(groups, own, what, config)
        parts = sorted(set(part_of.values()))
        if config.test_fold >= len(parts):
            raise ValueError(f"train.test_fold is {config.test_fold}, but there are {len(parts)} folds, counted from 0")
        held_out = parts[config.test_fold]
        how += f"; test: part {held_out}"
    if "valid" in names:
        sides = part_of
    else:
        rest = sorted({g for i, g in groups.items() if part_of[i] != held_out})
        if len(rest) < 2:
            raise ValueError(f"{len(rest)} {what} remain beside the test fold: expected 2 or more, to train on and to stop by")
        n_valid = min(len(rest) - 1, max(1, math.ceil(config.valid_share * len(rest))))
        chosen = np.random.default_rng(config.seed).permutation(len(rest))[:n_valid]
        valid = {rest[j] for j in chosen}
        sides = {i: "test" if part_of[i] == held_out else "valid" if g in valid else "train" for i, g in groups.items()}
        how += f"; {n_valid} of the other {len(rest)} {what} decide when to stop"

    if leaking := leaks(groups, sides):
        what_leaks = f"{len(leaking)} speakers are on two sides, such as {', '.join(leaking[:5])}"
        if config.split != "given":
            raise ValueError(
                f"{what_leaks}: the folds leak speakers. Say train.split=speaker_folds to deal speakers anew, or "
                "train.split=given to keep these folds and a flattered result"
            )
        how += f"; WARNING: {what_leaks}, which flatters the result"
    arrays = {side: np.array([i for i in groups if sides[i] == side], np.int64) for side in SIDES}
    return Split(arrays["train"], arrays["valid"], arrays["test"], how, len(parts))


def leaks(groups: dict[int, str], sides: dict[int, str]) -> list[str]:
    """Groups (speakers) that are on more than one side."""
    on: dict[str, set[str]] = {}
    for i, group in groups.items():
        on.setdefault(group, set()).add(sides[i])
    return sorted(group for group, of in on.items() if len(of) > 1)


def _parts(groups: dict[int, str], own: dict[int, str | None], what: str, config: TrainConfig) -> tuple[dict[int, str], str]:
    """The part of each clip, and how parts were made."""
    if len({*own.values()} - {None}) > 1:
        return {i: str(own[i]) for i in groups}, "the corpus's own folds"
    everyone = sorted(set(groups.values()))
    if len(everyone) < 3:
        raise ValueError(f"{len(everyone)} {what} can't be divided into train, valid and test: expected 3 or more")
    if config.split == "leave_one_speaker_out":
        return groups, "each speaker a part"
    n = min(config.folds, len(everyone))
    dealt = np.random.default_rng(0).permutation(len(everyone))  # the folds are the same for every training seed
    part = {everyone[j]: f"{position % n:0{len(str(n - 1))}d}" for position, j in enumerate(dealt)}
    return {i: part[g] for i, g in groups.items()}, f"{what} dealt into {n} parts"
