from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import norm

from rrnn.made_task import COLUMNS, LENGTHS, TASKS, C, Clip, Corrupted, Pointer, Task, directions, keys, values

TINY = {"audio": (4, 6), "vision": (4, 5), "text": (2, 3)}
FloatArray = npt.NDArray[np.float64]


def tiny(name: str) -> Task:
    """With so little noise taken away that no class is certain."""
    return replace(TASKS[name], lengths=TINY, strength=1.2)


def density(x_KF: npt.NDArray[np.floating], mean_KF: FloatArray, deviation: float = 1.0) -> float:
    return float(np.exp(norm.logpdf(x_KF, mean_KF, deviation).sum()))


def one_frame(x_KF: npt.NDArray[np.floating], mean_F: FloatArray) -> float:
    """Density of noise with a mean in one frame, any as likely."""
    means = [np.zeros(x_KF.shape) for _ in x_KF]
    for k, mean_KF in enumerate(means):
        mean_KF[k] = mean_F
    return float(np.mean([density(x_KF, mean_KF) for mean_KF in means]))


def every_pairing(
    task: Pointer, x_KF: npt.NDArray[np.floating], stream: str, n_values: int
) -> Iterator[tuple[float, dict[int, int]]]:
    """Density of a stream given each order of the keys and each choice of values, with the value of each key."""
    n = task.n_keys
    parts = np.array_split(np.arange(len(x_KF)), n)
    for order in itertools.permutations(range(n)):
        for chosen in itertools.product(range(n_values), repeat=n):
            total = []
            for frames in itertools.product(*parts):
                mean_KF = np.zeros(x_KF.shape)
                for k, j, v in zip(frames, order, chosen, strict=True):
                    mean_KF[k] = task.strength * (keys(stream)[j] + values(stream)[v])
                total.append(density(x_KF, mean_KF))
            yield float(np.mean(total)), dict(zip(order, chosen, strict=True))


def table_of_pairs(task: Pointer, x_KF: npt.NDArray[np.floating], stream: str, n_values: int) -> FloatArray:
    """Density of a stream together with what each key stands with: (keys, values), over all states."""
    found = np.zeros((task.n_keys, n_values))
    for p, value_of in every_pairing(task, x_KF, stream, n_values):
        for j, v in value_of.items():
            found[j, v] += p
    return found


def brute_force(name: str, task: Task, x: Clip) -> FloatArray:
    """The posterior by plain densities, state by state."""
    p_C = np.zeros(C)
    if name in ("average", "corrupted"):
        weak = {s: task.strength / np.sqrt((a + b) / 2) * values(s) for s, (a, b) in TINY.items()}
        for y in range(C):
            sound = {s: density(x[s], np.tile(weak[s][y], (len(x[s]), 1))) for s in x}
            p_C[y] = np.prod(list(sound.values()))
            if isinstance(task, Corrupted):
                broken = {s: density(x[s], np.zeros(x[s].shape), task.DEVIATION) for s in x}
                ways = [np.prod([broken[s] if s == bad else sound[s] for s in x]) for bad in x]
                p_C[y] = (1 - task.SHARE) * p_C[y] + task.SHARE * np.mean(ways)
    elif name == "sparse":
        for y in range(C):
            p_C[y] = np.prod([one_frame(x[s], task.strength * values(s)[y]) for s in x])
    elif name == "conflict":
        for told in itertools.permutations(range(C), 3):
            for honest, flag_F in enumerate(keys("text")[:3]):
                audio, vision = (one_frame(x[s], task.strength * values(s)[told[i]]) for i, s in enumerate(("audio", "vision")))
                text = []
                for k, flagged in itertools.product(range(len(x["text"])), repeat=2):  # which may be the same frame
                    mean_KF = np.zeros(x["text"].shape)
                    mean_KF[k] += task.strength * values("text")[told[2]]
                    mean_KF[flagged] += task.strength * flag_F
                    text.append(density(x["text"], mean_KF))
                p_C[told[honest]] += audio * vision * np.mean(text)
    else:
        assert isinstance(task, Pointer)
        text_J = [one_frame(x["text"], task.strength * keys("text")[j]) for j in range(task.n_keys)]
        audio_JC = table_of_pairs(task, x["audio"], "audio", C)
        if name == "pointer":
            p_C = text_J @ audio_JC
        else:
            p_C = text_J @ table_of_pairs(task, x["vision"], "vision", task.n_keys) @ audio_JC
    return p_C / p_C.sum()


@pytest.mark.parametrize("name", TASKS)
def test_the_posterior_is_that_of_summing_over_all_states(name: str) -> None:
    task = tiny(name)
    if isinstance(task, Pointer):
        task = replace(task, n_keys=3)  # 4 are 6144 orders and values of audio alone
    for clip in task.generate(3, seed=5)[0]:
        exact = {s: x.astype(np.float64) for s, x in clip.items()}
        np.testing.assert_allclose(task.posterior(clip), brute_force(name, task, exact), rtol=1e-9)


@pytest.mark.parametrize("name", TASKS)
def test_the_posterior_keeps_its_word(name: str) -> None:
    """Of the clips whose likeliest class has probability p, a share of p has that class; the best accuracy is below 1."""
    n = 600
    clips, labels = TASKS[name].generate(n, seed=1)
    posteriors = np.stack([TASKS[name].posterior(clip) for clip in clips])
    np.testing.assert_allclose(posteriors.sum(1), 1)
    figures = TASKS[name].bayes(clips, labels)
    assert 0.85 < figures["expected_accuracy"] < 0.985
    spread = np.sqrt((posteriors.max(1) * (1 - posteriors.max(1))).mean() / n)
    assert abs(figures["accuracy"] - figures["expected_accuracy"]) < 4 * spread
    for c in range(C):  # and so for each class, whether it is the likeliest or not
        spread = np.sqrt((posteriors[:, c] * (1 - posteriors[:, c])).mean() / n)
        assert abs((labels == c).mean() - posteriors[:, c].mean()) < 4 * spread
    unsure = posteriors.max(1) < 0.8
    right = posteriors.argmax(1) == labels
    assert abs(right[unsure].mean() - posteriors.max(1)[unsure].mean()) < 4 * 0.5 / np.sqrt(unsure.sum())


@pytest.mark.parametrize("name", TASKS)
def test_without_strength_a_clip_tells_nothing(name: str) -> None:
    task = replace(TASKS[name], strength=0.0)
    for clip in task.generate(5, seed=0)[0]:
        np.testing.assert_allclose(task.posterior(clip), 1 / C)


@pytest.mark.parametrize("name", TASKS)
def test_clips_are_what_the_seed_says(name: str) -> None:
    task = TASKS[name]
    clips, labels = task.generate(40, seed=3)
    fewer, their_labels = task.generate(10, seed=3)
    others, _ = task.generate(10, seed=4)
    np.testing.assert_array_equal(labels[:10], their_labels)
    for clip, same, other in zip(clips[:10], fewer, others, strict=True):
        for s in COLUMNS:
            np.testing.assert_array_equal(clip[s], same[s])
            assert not np.array_equal(clip[s][:4], other[s][:4])
    for s, (fewest, most) in LENGTHS.items():
        lengths = {len(clip[s]) for clip in clips}
        assert fewest <= min(lengths) < max(lengths) <= most
        assert {clip[s].shape[1] for clip in clips} == {COLUMNS[s]}
        assert {clip[s].dtype for clip in clips} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("name", "alone"),
    [
        ("conflict", {"audio": 1 / 3, "vision": 1 / 3, "text": 1 / 3 + 2 / 3 / 3}),  # the text knows when it is honest itself
        ("pointer", {"audio": 0.55, "vision": 0.25, "text": 0.25}),  # what most candidates say
        ("chain", {"audio": 0.63, "vision": 0.25, "text": 0.25}),
    ],
)
def test_no_modality_suffices_alone(name: str, alone: dict[str, float]) -> None:
    clips, labels = TASKS[name].generate(300, seed=2)
    for s, most in alone.items():
        figures = TASKS[name].bayes([{s: clip[s]} for clip in clips], labels)
        assert figures["expected_accuracy"] < most + 0.02


def test_averages_are_all_there_is_where_every_frame_tells_a_little() -> None:
    clip = TASKS["average"].generate(1, seed=0)[0][0]
    shuffled = {s: x[np.random.default_rng(0).permutation(len(x))] for s, x in clip.items()}
    np.testing.assert_allclose(TASKS["average"].posterior(shuffled), TASKS["average"].posterior(clip), rtol=1e-5)


@pytest.mark.parametrize("stream", COLUMNS)
def test_directions_are_orthonormal(stream: str) -> None:
    np.testing.assert_allclose(directions(stream) @ directions(stream).T, np.eye(COLUMNS[stream]), atol=1e-12)
