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
    """Indices of the clips on each side, and how they were divided, in words."""

    train: npt.NDArray[np.int64]
    valid: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    how: str

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
    """Divide the clips for which keep is true.

    A corpus whose folds are named train, valid and test is divided so. Otherwise its folds, or, where it has none, its
    speakers dealt into config.folds parts, give the test part (config.test_fold), and valid_share of the speakers that
    remain decides when to stop. Raises ValueError where clips have no speaker, speakers are too few, or a speaker would
    be on two sides.
    """
    kept: list[int] = np.flatnonzero(keep).tolist()
    if config.split == "clip":
        groups: dict[int, str] = {i: ids[i] for i in kept}
        what = "clips"
    else:
        nameless = [ids[i] for i in kept if speakers[i] is None]
        if nameless:
            raise ValueError(
                f"{len(nameless)} clips have no speaker (such as {nameless[0]!r}), so none can be held out by speaker: name "
                "the speakers in the manifest, or say train.split=clip, which lets a speaker be on both sides and flatters "
                "the result"
            )
        groups = {i: str(speakers[i]) for i in kept}
        what = "speakers"
    names = {folds[i] for i in kept}
    if None in names and len(names) > 1:
        some = sum(folds[i] is None for i in kept)
        raise ValueError(f"{some} clips have no fold and others do: expected a fold for each clip, or for none")
    if names & {*SIDES, "dev", "val", "validation"} and names != set(SIDES):
        found = ", ".join(sorted(str(n) for n in names))
        raise ValueError(f"the clips' folds are {found}: expected train, valid and test, each with usable, labelled clips")
    if names == set(SIDES):
        sides = {i: str(folds[i]) for i in groups}
        how = "the corpus's own split"
    else:
        sides, how = _by_fold(groups, folds, names, what, config)
    for name in sorted(set(groups.values())):
        on = {sides[i] for i in groups if groups[i] == name}
        if len(on) > 1:
            raise ValueError(f"speaker {name!r} would be on two sides, {' and '.join(sorted(on))}: the folds leak speakers")
    arrays = {side: np.array([i for i in groups if sides[i] == side], np.int64) for side in SIDES}
    return Split(arrays["train"], arrays["valid"], arrays["test"], how)


def _by_fold(
    groups: dict[int, str], folds: Sequence[str | None], names: set[str | None], what: str, config: TrainConfig
) -> tuple[dict[int, str], str]:
    everyone = sorted(set(groups.values()))
    if None not in names and len(names) > 1:
        parts = sorted(str(n) for n in names)
        part_of = {i: str(folds[i]) for i in groups}
        how = "the corpus's own folds"
    else:
        if len(everyone) < 3:
            raise ValueError(f"{len(everyone)} {what} can't be divided into train, valid and test: expected 3 or more")
        n = min(config.folds, len(everyone))
        dealt = np.random.default_rng(0).permutation(len(everyone))  # the folds are the same for every training seed
        fold_of = {everyone[j]: str(position % n) for position, j in enumerate(dealt)}
        parts = [str(k) for k in range(n)]
        part_of = {i: fold_of[g] for i, g in groups.items()}
        how = f"{what} dealt into {n} parts"
    if config.test_fold >= len(parts):
        raise ValueError(f"train.test_fold is {config.test_fold}, but there are {len(parts)} folds, counted from 0")
    held_out = parts[config.test_fold]
    rest = sorted({g for i, g in groups.items() if part_of[i] != held_out})
    if len(rest) < 2:
        raise ValueError(f"{len(rest)} {what} remain beside the test fold: expected 2 or more, to train on and to stop by")
    n_valid = min(len(rest) - 1, max(1, math.ceil(config.valid_share * len(rest))))
    chosen = np.random.default_rng(config.seed).permutation(len(rest))[:n_valid]
    valid = {rest[j] for j in chosen}
    sides = {i: "test" if part_of[i] == held_out else "valid" if g in valid else "train" for i, g in groups.items()}
    return sides, f"{how}; test: part {held_out}; {n_valid} of the other {len(rest)} {what} decide when to stop"
