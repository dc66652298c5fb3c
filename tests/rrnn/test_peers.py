from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Weights, sigmoid

from rrnn.config import ModelConfig
from rrnn.data import collate
from rrnn.model import Batch
from rrnn.peers import MemoryFusionNetwork, MultimodalTransformer, TransformerLayer, align, positions

COLUMNS = {"acoustic": 5, "face": 3, "words": 4}
Peer = MemoryFusionNetwork | MultimodalTransformer
Clip = dict[str, np.ndarray]

both = pytest.mark.parametrize("architecture", ["mfn", "mult"])


def make_model(architecture: str, columns: dict[str, int] = COLUMNS, **options: object) -> Peer:
    torch.manual_seed(0)
    small: dict[str, object] = {"hidden": 6, "heads": 2, "layers": 2} if architecture == "mult" else {"hidden": 6}
    config = ModelConfig(architecture=architecture, **{**small, **options})  # type: ignore[arg-type]
    peer = MultimodalTransformer if architecture == "mult" else MemoryFusionNetwork
    model = peer(config, columns, 3).double().eval()
    for layer in model.standardise.values():
        layer.mean.normal_()
        layer.std.uniform_(0.5, 2.0)
    return model


def double(batch: Batch) -> Batch:
    return Batch({s: v.double() for s, v in batch.values.items()}, batch.lengths)


def random_clip(seed: int, lengths: dict[str, int], columns: dict[str, int] = COLUMNS) -> Clip:
    random = np.random.default_rng(seed)
    return {s: random.normal(size=(n, columns[s])).astype(np.float32) for s, n in lengths.items() if n}


def predict(model: Peer, *clips: Clip, columns: dict[str, int] = COLUMNS) -> torch.Tensor:
    return model(double(collate(list(clips), columns))).prediction


# The papers' equations for one clip, in float64 NumPy, step by step.


def standardised(clip: Clip, w: Weights, s: str) -> np.ndarray:
    x = (clip[s].astype(np.float64) - w[f"standardise.{s}.mean"]) / w[f"standardise.{s}.std"]
    return np.where(np.isnan(x), 0.0, x)


def affine(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def mlp(w: Weights, name: str, x: np.ndarray, second: int = 3) -> np.ndarray:
    return affine(w, f"{name}.{second}", np.maximum(affine(w, f"{name}.0", x), 0))


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def reference_align(x: np.ndarray, steps: int) -> np.ndarray:
    n = len(x)
    if n < steps:
        return np.array([x[t * n // steps] for t in range(steps)])
    falls_in = [-(-(k + 1) * steps // n) - 1 for k in range(n)]  # the end of frame k, in steps, rounded up
    return np.array([np.mean([x[k] for k in range(n) if falls_in[k] == t], axis=0) for t in range(steps)])


def reference_mfn(clip: Clip, w: Weights, streams: list[str]) -> np.ndarray:
    hidden = w["proposal.3.bias"].shape[0]
    steps = min(50, max(map(len, clip.values())))
    x = {s: reference_align(standardised(clip, w, s), steps) for s in streams if s in clip}
    h, c = {s: np.zeros(hidden) for s in streams}, {s: np.zeros(hidden) for s in streams}
    present = np.tile(np.repeat([s in clip for s in streams], hidden), 2)
    u = np.zeros(hidden)
    for t in range(steps):
        before = dict(c)
        for s in x:  # the system of LSTMs
            cell = f"lstms.{s}."
            gates = w[cell + "weight_ih"] @ x[s][t] + w[cell + "bias_ih"] + w[cell + "weight_hh"] @ h[s] + w[cell + "bias_hh"]
            i, f, m, o = np.split(gates, 4)
            c[s] = sigmoid(f) * c[s] + sigmoid(i) * np.tanh(m)
            h[s] = sigmoid(o) * np.tanh(c[s])
        cells = np.concatenate([before[s] for s in streams] + [c[s] for s in streams])
        attention = np.zeros(len(cells))
        attention[present] = softmax(mlp(w, "attention", cells)[present])
        attended = attention * cells
        proposal = mlp(w, "proposal", attended)
        gamma_1, gamma_2 = sigmoid(mlp(w, "retain", attended)), sigmoid(mlp(w, "update", attended))
        u = gamma_1 * u + gamma_2 * np.tanh(proposal)
    return mlp(w, "output", np.concatenate([*(h[s] for s in streams), u]))


def reference_norm(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def reference_layer(w: Weights, name: str, heads: int, x: np.ndarray, source: np.ndarray | None) -> np.ndarray:
    """source: (J, E), J may be 0, or None for x itself."""
    normed = reference_norm(w, f"{name}.attend_norm", x)
    key = normed if source is None else reference_norm(w, f"{name}.attend_norm", source)
    if len(key):
        q, (k, v) = affine(w, f"{name}.query", normed), np.split(affine(w, f"{name}.key_value", key), 2, axis=1)
        d = x.shape[1] // heads
        parts = [slice(i * d, (i + 1) * d) for i in range(heads)]
        read = [softmax(q[:, p] @ k[:, p].T / np.sqrt(d)) @ v[:, p] for p in parts]
        x = x + affine(w, f"{name}.join", np.concatenate(read, axis=1))
    return x + mlp(w, f"{name}.feed", reference_norm(w, f"{name}.feed_norm", x), second=2)


def reference_mult(clip: Clip, w: Weights, streams: list[str], hidden: int, heads: int, layers: int) -> np.ndarray:
    z = {s: np.zeros((0, hidden)) for s in streams}
    for s in clip:
        x = np.pad(standardised(clip, w, s), ((1, 1), (0, 0)))
        kernel = w[f"convolutions.{s}.weight"]  # (H, F, 3)
        for k in range(len(clip[s])):
            angles = [k / 10000 ** (2 * j / hidden) for j in range(hidden // 2)]
            position = np.array([f(a) for a in angles for f in (np.sin, np.cos)])
            z[s] = np.vstack([z[s], sum(kernel[:, :, i] @ x[k + i] for i in range(3)) + position])

    def transformer(name: str, x: np.ndarray, source: np.ndarray | None) -> np.ndarray:
        for i in range(layers):
            x = reference_layer(w, f"{name}.layers.{i}", heads, x, source)
        return reference_norm(w, f"{name}.norm", x)

    last = []
    for t in streams:
        if t in clip:
            enriched = [transformer(f"crossmodal.{t}.{s}", z[t], z[s]) for s in streams if s != t] or [z[t]]
            last.append(transformer(f"temporal.{t}", np.concatenate(enriched, axis=1), None)[-1])
        else:
            last.append(np.zeros(hidden * max(1, len(streams) - 1)))
    joined = np.concatenate(last)
    return affine(w, "output", joined + mlp(w, "block", joined))


CLIPS: list[dict[str, int]] = [
    {"acoustic": 11, "face": 7, "words": 2},
    {"acoustic": 130, "face": 64, "words": 9},  # longer than 50 steps
    {"acoustic": 4, "words": 1},
    {"face": 1},
]


@both
def test_model_is_the_papers_equations(architecture: str) -> None:
    model = make_model(architecture)
    w = {k: v.numpy() for k, v in model.state_dict().items()}
    clips = [random_clip(i, shape) for i, shape in enumerate(CLIPS)]
    clips[0]["face"][3] = np.nan  # not observed
    for row, clip in zip(predict(model, *clips).detach().numpy(), clips, strict=True):
        if architecture == "mfn":
            expected = reference_mfn(clip, w, sorted(COLUMNS))
        else:
            expected = reference_mult(clip, w, sorted(COLUMNS), hidden=6, heads=2, layers=2)
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-12)


def test_a_lone_stream_has_no_crossmodal_part() -> None:
    model = make_model("mult", {"words": 4})
    clip = random_clip(1, {"words": 6})
    w = {k: v.numpy() for k, v in model.state_dict().items()}
    assert not any("crossmodal" in name for name in w)
    expected = reference_mult(clip, w, ["words"], hidden=6, heads=2, layers=2)
    np.testing.assert_allclose(predict(model, clip, columns={"words": 4})[0].detach().numpy(), expected, rtol=0, atol=1e-12)


def test_alignment_by_hand() -> None:
    x = torch.tensor([[1.0, 2, 4, 8, 16], [1, 2, 0, 0, 0], [3, 5, 7, 0, 0]])[..., None]
    aligned = align(x, torch.tensor([5, 2, 3]), torch.tensor([2, 4, 3]), 4)[..., 0]
    assert aligned[0, :2].tolist() == pytest.approx([(1 + 2) / 2, (4 + 8 + 16) / 3])
    assert aligned[1].tolist() == [1, 1, 2, 2]
    assert aligned[2, :3].tolist() == [3, 5, 7]


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 50))
def test_alignment_uses_every_frame_once_or_every_step_one_frame(frames: int, steps: int) -> None:
    weights_TK = align(torch.eye(frames)[None], torch.tensor([frames]), torch.tensor([steps]), steps)[0]
    torch.testing.assert_close(weights_TK.sum(1), torch.ones(steps))  # averages
    taken = weights_TK > 0
    once = taken.sum(0) if frames >= steps else taken.sum(1)
    assert (once == 1).all()
    first = taken.int().argmax(1)
    assert (first.diff() >= 0).all()  # in order
    assert int(taken.sum(1).max() - taken.sum(1).min()) <= 1  # as equal as whole frames allow


def test_positions_by_hand() -> None:
    by_hand = [[0.0, 1, 0], [np.sin(1), np.cos(1), np.sin(1e4 ** (-2 / 3))]]
    np.testing.assert_allclose(positions(2, torch.empty(1, 2, 3, dtype=torch.float64)).numpy(), by_hand, atol=1e-15)


def make_layer() -> tuple[TransformerLayer, Weights]:
    torch.manual_seed(0)
    layer = TransformerLayer(6, 3, 0.3).double().eval()
    for norm in (layer.attend_norm, layer.feed_norm):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    return layer, {f"layer.{k}": v.numpy() for k, v in layer.state_dict().items()}


def test_crossmodal_attention_is_a_softmax_over_the_sources_real_frames() -> None:
    layer, w = make_layer()
    x, source, lengths = torch.randn(4, 5, 6).double(), torch.randn(4, 7, 6).double(), torch.tensor([7, 1, 0, 4])
    out = layer(x, source, torch.arange(7) < lengths[:, None]).detach().numpy()
    for row, n in enumerate(lengths.tolist()):
        expected = reference_layer(w, "layer", 3, x[row].numpy(), source[row, :n].numpy())
        np.testing.assert_allclose(out[row], expected, rtol=0, atol=1e-12)


def test_attention_without_positions_is_blind_to_the_order_of_its_source() -> None:
    layer, _ = make_layer()
    x, source, mask = torch.randn(2, 5, 6).double(), torch.randn(2, 7, 6).double(), torch.ones(2, 7, dtype=torch.bool)
    shuffled = source[:, torch.randperm(7)]
    torch.testing.assert_close(layer(x, shuffled, mask), layer(x, source, mask), rtol=0, atol=1e-12)


lengths = st.fixed_dictionaries({s: st.integers(0, 70) for s in COLUMNS}).filter(lambda d: any(d.values()))


@both
@settings(max_examples=25, deadline=None)
@given(shapes=st.lists(lengths, min_size=1, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_a_clips_output_does_not_depend_on_its_batch(architecture: str, shapes: list[dict[str, int]], seed: int) -> None:
    model = make_model(architecture)
    clips = [random_clip(seed + i, shape) for i, shape in enumerate(shapes)]
    alone = torch.cat([predict(model, clip) for clip in clips])
    torch.testing.assert_close(predict(model, *clips), alone, rtol=0, atol=1e-12)


@both
@pytest.mark.parametrize("poison", [1e6, float("inf"), float("nan")])
def test_padding_may_hold_anything(architecture: str, poison: float) -> None:
    model = make_model(architecture)
    batch = double(collate([random_clip(5, {"acoustic": 9, "face": 2}), random_clip(6, {"acoustic": 3, "words": 4})], COLUMNS))

    def outcome(values: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        model.zero_grad()
        prediction = model(Batch(values, batch.lengths)).prediction
        prediction.square().sum().backward()
        return prediction, *(p.grad.clone() for p in model.parameters() if p.grad is not None)

    poisoned = {s: v.clone() for s, v in batch.values.items()}
    for s, n in batch.lengths.items():
        for row, length in enumerate(n.tolist()):
            poisoned[s][row, length:] = poison
    torch.testing.assert_close(outcome(poisoned), outcome(batch.values), rtol=0, atol=0)


def is_of_the_face_alone(name: str) -> bool:
    """In another stream's crossmodal transformer, what reads the face; the feed-forward networks there see the other stream."""
    reads = ".face.layers." in name and any(part in name for part in ("attend_norm", "query", "key_value", "join"))
    return reads or name.startswith(("lstms.face", "convolutions.face", "temporal.face", "crossmodal.face"))


@both
def test_an_absent_stream_leaves_no_gradient(architecture: str) -> None:
    hidden = 16
    model = make_model(architecture, hidden=hidden).train()
    predict(model, random_clip(7, {"acoustic": 9, "words": 4}), random_clip(8, {"words": 2})).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name  # all take part, as data-parallel training needs
        assert parameter.grad.isfinite().all(), name
        assert bool((parameter.grad == 0).all()) == is_of_the_face_alone(name), name
    first = (model.attention if isinstance(model, MemoryFusionNetwork) else model.block)[0].weight.grad
    width = hidden if architecture == "mfn" else 2 * hidden
    assert (first[:, width : 2 * width] == 0).all()  # the weights of the face in what is shared


@both
def test_every_stream_that_is_there_counts(architecture: str) -> None:
    model = make_model(architecture)
    for shape in CLIPS:
        batch = double(collate([random_clip(0, shape)], COLUMNS))
        inputs = {s: v.requires_grad_() for s, v in batch.values.items()}
        gradients = torch.autograd.grad(model(batch).prediction.square().sum(), list(inputs.values()))
        for s, gradient in zip(inputs, gradients, strict=True):
            assert (gradient != 0).any(-1).all().item() == (s in shape), s  # each of its frames


@both
def test_gradients_are_right(architecture: str) -> None:
    columns = {"a": 2, "b": 2}
    model = make_model(architecture, columns, hidden=4)
    clips = [random_clip(1, {"a": 4, "b": 2}, columns), random_clip(2, {"a": 3}, columns)]
    batch = double(collate(clips, columns))
    names = [name for name, _ in model.named_parameters() if "bias" in name]
    biases = [dict(model.named_parameters())[name] for name in names]

    def f(a: torch.Tensor, b: torch.Tensor, *biases: torch.Tensor) -> torch.Tensor:
        values = Batch({"a": a, "b": b}, batch.lengths)
        return torch.func.functional_call(model, dict(zip(names, biases, strict=True)), (values,)).prediction

    inputs = [batch.values[s].clone().requires_grad_() for s in columns]
    assert torch.autograd.gradcheck(f, (*inputs, *biases), fast_mode=True)
    assert torch.autograd.gradcheck(lambda a, b: f(a, b, *biases), inputs)


@both
def test_two_clips_can_be_learned_by_heart(architecture: str) -> None:
    model = make_model(architecture, hidden=8, dropout=0.0).train()
    clips = [random_clip(i, {"acoustic": 30, "face": 12, "words": 5}) for i in (1, 2)]
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(predict(model, *clips), torch.tensor([0, 2]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.01


@both
def test_float32_is_close_to_float64(architecture: str) -> None:
    model = make_model(architecture)
    batch = collate([random_clip(1, {"acoustic": 300, "face": 90, "words": 12})], COLUMNS)
    exact = model(double(batch)).prediction
    torch.testing.assert_close(model.float()(batch).prediction.double(), exact, rtol=0, atol=1e-5)


@both
@pytest.mark.parametrize("streams", [1, 2, 5, 8])
def test_any_number_of_streams(architecture: str, streams: int) -> None:
    columns = {f"s{i}": 2 + i for i in range(streams)}
    model = make_model(architecture, columns, hidden=2)
    full, first = random_clip(0, dict.fromkeys(columns, 3), columns), random_clip(1, {"s0": 2}, columns)
    out = model(double(collate([full, first], columns)), explain=True)
    assert out.prediction.shape == (2, 3)
    assert out.prediction.isfinite().all()
    assert not out.hops


def test_late_positions_differ_in_half_precision_too() -> None:
    exact = positions(700, torch.zeros(1, 1, 40))
    torch.testing.assert_close(positions(700, torch.zeros(1, 1, 40, dtype=torch.bfloat16)).float(), exact, rtol=0, atol=0.005)
