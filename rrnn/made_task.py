"""Made tasks with a known answer: ragged sequences of three modalities, and the exact probability of each class given a clip,
which no model can beat in the long run. They show what attention, hops and gates are for, and where they are for nothing.

Every frame is standard normal noise; some frames carry a mean as well, along directions that are orthonormal within a stream.
The posterior knows the directions. It does not know positions, keys, decoys, or what is corrupted: it sums over them all.
Since the directions are orthogonal, a frame that carries two means has the product of their likelihood ratios.

All likelihoods are logarithms of ratios to standard normal noise. A stream that a clip lacks says nothing: what one modality
alone can tell is the posterior of a clip that has no other.

Axes, as suffixes of names: K frames, F columns, C classes (and the values of a cue), J keys, I segments, N arrangements.
There are as many keys and segments as classes.
"""

from __future__ import annotations

import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp, xlogy

from rrnn.metrics import classification_metrics

FloatArray = npt.NDArray[np.float64]
Clip = dict[str, npt.NDArray[np.float32]]
"""Of each stream, its frames (K, F)."""

CLASSES = ("class0", "class1", "class2", "class3")
COLUMNS = {"audio": 12, "vision": 10, "text": 8}
LENGTHS = {"audio": (20, 40), "vision": (10, 20), "text": (4, 8)}
"""Fewest and most frames of each stream; every number between is as likely."""

C = len(CLASSES)


@functools.cache
def _orders(n: int) -> npt.NDArray[np.int64]:
    """(n!, n): all permutations."""
    return np.array(list(itertools.permutations(range(n))))


@functools.cache
def directions(stream: str) -> FloatArray:
    """(F, F), orthonormal rows, the same in every task. The first C are of classes (and of other values of a cue), the next
    C are of keys, and the others are of nothing."""
    random = np.random.default_rng(list(COLUMNS).index(stream))
    return np.asarray(np.linalg.qr(random.normal(size=(COLUMNS[stream], COLUMNS[stream])))[0])


def values(stream: str) -> FloatArray:
    """(C, F)"""
    return directions(stream)[:C]


def keys(stream: str) -> FloatArray:
    """(J, F)"""
    return directions(stream)[C : 2 * C]


@dataclass(frozen=True)
class Task(ABC):
    """A way to make clips, and what they tell. strength: how large the means are, in deviations of the noise; at 0 a clip
    tells nothing. Subclasses say what is laid into the noise, and its likelihood, side by side."""

    strength: float
    lengths: Mapping[str, tuple[int, int]] = field(default_factory=lambda: LENGTHS)

    def generate(self, n: int, seed: int) -> tuple[list[Clip], npt.NDArray[np.int64]]:
        """n clips and their classes (n,), each class as likely. Clip i depends on the seed and on i, not on n."""
        clips, labels = [], np.empty(n, np.int64)
        for i in range(n):
            random = np.random.default_rng([seed, i])
            labels[i] = random.integers(C)
            x = {}
            for s, (fewest, most) in self.lengths.items():
                x[s] = random.normal(size=(random.integers(fewest, most + 1), COLUMNS[s]))
            self._lay(random, x, int(labels[i]))
            clips.append({s: x_KF.astype(np.float32) for s, x_KF in x.items()})
        return clips, labels

    def posterior(self, clip: Clip) -> FloatArray:
        """(C,): the probability of each class given the clip, exactly."""
        log_C = self._log_likelihood({s: x_KF.astype(np.float64) for s, x_KF in clip.items()})
        return np.asarray(np.exp(log_C - logsumexp(log_C)))

    def bayes(self, clips: Sequence[Clip], labels: npt.NDArray[np.int64]) -> dict[str, float]:
        """The best possible figures: of these clips and classes (n,), as rrnn.metrics has them, and "expected_accuracy" and
        "expected_cross_entropy", which are over the classes that such clips could have had and vary less."""
        posteriors = np.stack([self.posterior(clip) for clip in clips])
        return {
            **classification_metrics(labels, posteriors),
            "expected_accuracy": float(posteriors.max(1).mean()),
            "expected_cross_entropy": float(-xlogy(posteriors, posteriors).sum(1).mean()),
        }

    @abstractmethod
    def _lay(self, random: np.random.Generator, x: dict[str, FloatArray], y: int) -> None:
        """Lay the means of a clip of class y into its noise."""

    @abstractmethod
    def _log_likelihood(self, x: Mapping[str, FloatArray]) -> FloatArray:
        """(C,): log p(clip | class), up to a constant."""

    def _cue(self, x: Mapping[str, FloatArray], stream: str, means: FloatArray) -> FloatArray:
        """(means,): log-likelihood of each mean in one frame, any frame as likely."""
        return _any_frame(_ratios(x[stream], self.strength * means)) if stream in x else np.zeros(len(means))


class Average(Task):
    """Every frame of every stream carries a weak mean of the class: averages tell all there is. strength is of a stream of
    middling length as a whole, so that each stream tells about as much."""

    def _weak(self, stream: str) -> FloatArray:
        return np.asarray(self.strength / np.sqrt(np.mean(self.lengths[stream])) * values(stream))

    def _lay(self, random: np.random.Generator, x: dict[str, FloatArray], y: int) -> None:
        for s in x:
            x[s] += self._weak(s)[y]

    def _log_likelihood(self, x: Mapping[str, FloatArray]) -> FloatArray:
        return np.asarray(sum((_ratios(x[s], self._weak(s)).sum(0) for s in x), np.zeros(C)))


class Corrupted(Average):
    """As average, but in SHARE of the clips one stream, any as likely, is noise of a large DEVIATION and nothing else."""

    SHARE = 0.5
    DEVIATION = 4.0

    def _lay(self, random: np.random.Generator, x: dict[str, FloatArray], y: int) -> None:
        super()._lay(random, x, y)
        if random.random() < self.SHARE:
            s = list(self.lengths)[random.integers(len(self.lengths))]
            x[s] = self.DEVIATION * random.normal(size=x[s].shape)

    def _log_likelihood(self, x: Mapping[str, FloatArray]) -> FloatArray:
        sound = {s: _ratios(x[s], self._weak(s)).sum(0) for s in x}
        whole_C = sum(sound.values(), np.zeros(C))
        states = [np.log(1 - self.SHARE) + whole_C]
        for s in self.lengths:
            prior = np.log(self.SHARE / len(self.lengths))
            states.append(prior + (whole_C - sound[s] + self._corruption(x[s]) if s in x else whole_C))
        return np.asarray(logsumexp(states, axis=0))

    def _corruption(self, x_KF: FloatArray) -> float:
        """Log-likelihood of a corrupted stream."""
        return float((np.square(x_KF) * (1 - self.DEVIATION**-2) / 2 - np.log(self.DEVIATION)).sum())


class Sparse(Task):
    """Each stream carries the class in one frame, any as likely."""

    def _lay(self, random: np.random.Generator, x: dict[str, FloatArray], y: int) -> None:
        for s in x:
            _add(random, x[s], self.strength * values(s)[y])

    def _log_likelihood(self, x: Mapping[str, FloatArray]) -> FloatArray:
        return np.asarray(sum((self._cue(x, s, values(s)) for s in x), np.zeros(C)))


class Conflict(Task):
    """Each stream carries a class in one frame, no two streams the same. A flag in one frame of the text says which stream
    tells the truth."""

    def _lay(self, random: np.random.Generator, x: dict[str, FloatArray], y: int) -> None:
        streams = list(x)
        lies = random.permutation(np.delete(np.arange(C), y))
        honest, *others = random.permutation(len(streams))
        for s, told in zip((honest, *others), (y, *lies), strict=False):
            _add(random, x[streams[s]], self.strength * values(streams[s])[told])
        _add(random, x["text"], self.strength * keys("text")[honest])

    def _log_likelihood(self, x: Mapping[str, FloatArray]) -> FloatArray:
        streams = list(self.lengths)
        flag_S = self._cue(x, "text", keys("text")[: len(streams)])
        told_NS = _orders(C)[:, : len(streams)]
        log_N = np.sum([self._cue(x, s, values(s))[told_NS[:, i]] for i, s in enumerate(streams)], axis=0)
        log_NS = log_N[:, None] + flag_S
        return np.array([logsumexp(log_NS[told_NS == y]) for y in range(C)])


@dataclass(frozen=True)
class Pointer(Task):
    """The audio is cut into segments as even as can be; each has one frame, any as likely, that carries a key and a class.
    Every key comes once, in any order. The text has one key in one frame: it is the one whose class is true. The classes
    beside the other keys are decoys, drawn like the true one. The vision is noise. n_keys: keys and segments, C at most."""

    n_keys: int = C

    def _lay(self, random: np.random.Generator, x: dict[str, FloatArray], y: int) -> None:
        _add(random, x["text"], self.strength * keys("text")[self._lay_pairs(random, x, "audio", C, y)])

    def _log_likelihood(self, x: Mapping[str, FloatArray]) -> FloatArray:
        return np.asarray(logsumexp(self._key(x)[:, None] + self._pairs(x, "audio", C), axis=0))

    def _key(self, x: Mapping[str, FloatArray]) -> FloatArray:
        """(J,): log-likelihood of the text with each key."""
        return self._cue(x, "text", keys("text")[: self.n_keys])

    def _lay_pairs(self, random: np.random.Generator, x: dict[str, FloatArray], stream: str, n_values: int, value: int) -> int:
        """Lay a key and a value into each segment; returns a key, any as likely, that stands with the given value."""
        keys_I, values_I = random.permutation(self.n_keys), random.integers(n_values, size=self.n_keys)
        true = random.integers(self.n_keys)
        values_I[true] = value
        for part_KF, j, v in zip(np.array_split(x[stream], self.n_keys), keys_I, values_I, strict=True):  # parts are views
            _add(random, part_KF, self.strength * (keys(stream)[j] + values(stream)[v]))
        return int(keys_I[true])

    def _pairs(self, x: Mapping[str, FloatArray], stream: str, n_values: int) -> FloatArray:
        """(J, values): log-likelihood of a stream in which the given key stands with the given value."""
        if stream not in x:
            return np.zeros((self.n_keys, n_values))
        key_KJ = _ratios(x[stream], self.strength * keys(stream)[: self.n_keys])
        value_KV = _ratios(x[stream], self.strength * values(stream)[:n_values])
        frames_KJV = key_KJ[:, :, None] + value_KV[:, None, :]
        log_IJV = np.stack([_any_frame(part) for part in np.array_split(frames_KJV, self.n_keys)])
        log_IJ = logsumexp(log_IJV, axis=2) - np.log(n_values)  # whatever the value
        orders_NI = _orders(self.n_keys)
        log_N = log_IJ[np.arange(self.n_keys), orders_NI].sum(1)
        log_JV = np.empty((self.n_keys, n_values))
        for j in range(self.n_keys):
            i_N = np.nonzero(orders_NI == j)[1]  # the segment that has the key, in each order
            log_JV[j] = logsumexp((log_N - log_IJ[i_N, j])[:, None] + log_IJV[i_N, j], axis=0)
        return log_JV


class Chain(Pointer):
    """As pointer, with a step between: the text's key stands in the vision with another key, which stands in the audio with the
    class. The keys beside the other keys of the vision are decoys too."""

    def _lay(self, random: np.random.Generator, x: dict[str, FloatArray], y: int) -> None:
        second = self._lay_pairs(random, x, "audio", C, y)
        first = self._lay_pairs(random, x, "vision", self.n_keys, second)
        _add(random, x["text"], self.strength * keys("text")[first])

    def _log_likelihood(self, x: Mapping[str, FloatArray]) -> FloatArray:
        second_J = logsumexp(self._key(x)[:, None] + self._pairs(x, "vision", self.n_keys), axis=0)
        return np.asarray(logsumexp(second_J[:, None] + self._pairs(x, "audio", C), axis=0))


TASKS: dict[str, Task] = {
    "average": Average(1.5),
    "sparse": Sparse(2.7),
    "corrupted": Corrupted(1.8),
    "conflict": Conflict(4.0),
    "pointer": Pointer(3.8),
    "chain": Chain(3.8, n_keys=2),
}


def _add(random: np.random.Generator, x_KF: FloatArray, mean_F: FloatArray) -> None:
    """To any one frame."""
    x_KF[random.integers(len(x_KF))] += mean_F


def _ratios(x_KF: FloatArray, means_MF: FloatArray) -> FloatArray:
    """(K, M): log N(x; mean, 1) / N(x; 0, 1)."""
    return np.asarray(x_KF @ means_MF.T - np.square(means_MF).sum(-1) / 2)


def _any_frame(log_KX: FloatArray) -> FloatArray:
    """Log of the mean over the frames of what has these logarithms."""
    return np.asarray(logsumexp(log_KX, axis=0) - np.log(len(log_KX)))
