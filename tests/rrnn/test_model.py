"""The model against the paper's equations (reference.py), small cases by hand, and what must hold whatever the weights are.

`PYTHONPATH=. python tests/rrnn/test_model.py` makes golden/model.json anew; say in the change why the outputs moved.
"""

from __future__ import annotations

import gc
import json
import math
import random
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import ARCHITECTURES as REFERENCES
from torch import Tensor
from torch.autograd import gradcheck

import rrnn.frames
import rrnn.model
from rrnn.config import ModelConfig, config_from_dict
from rrnn.data import collate
from rrnn.model import RRNN, Batch, EarlyFusion, Encoder, Hop, LateFusion, Model, Naive, Recursion

Options = dict[str, Any]
Clip = dict[str, np.ndarray]
COLUMNS = {"words": 4, "acoustic": 5, "face": 3}  # not in sorted order, which is the model's
CLASSES: dict[str, type[Model]] = {"rrnn": RRNN, "early": EarlyFusion, "late": LateFusion, "naive": Naive}
GOLDEN = Path(__file__).parent / "golden" / "model.json"

exactly = partial(torch.testing.assert_close, rtol=0, atol=0)
closely = partial(torch.testing.assert_close, rtol=0, atol=1e-12)
doubles = partial(torch.tensor, dtype=torch.float64)


def make_model(columns: dict[str, int] = COLUMNS, seed: int = 0, **options: Any) -> Model:
    """In float64, without dropout, its weights larger than at the start of training: attention and gates are far from even."""
    torch.manual_seed(seed)
    small = {"rrnn": {"hidden": 3, "align_size": 2}, "late": {"hidden": 3}, "naive": {}}
    small["early"] = small["rrnn"]
    config = ModelConfig(**{**small[options.get("architecture", "rrnn")], **options})
    model = CLASSES[config.architecture](config, columns, 3).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1)
        for layer in model.standardise.values():
            layer.mean.normal_()
            layer.std.uniform_(0.5, 2.0)
    return model


def double(batch: Batch) -> Batch:
    return Batch({s: v.double() for s, v in batch.values.items()}, batch.lengths)


def random_clip(seed: int, lengths: dict[str, int], columns: dict[str, int] = COLUMNS) -> Clip:
    rng = np.random.default_rng(seed)
    return {s: rng.normal(size=(n, columns[s])).astype(np.float32) for s, n in lengths.items() if n}


def mixed_clips() -> list[Clip]:
    """Ragged; with cells, frames and a whole stream that were not observed; with one, two, three and all streams absent."""
    full = random_clip(1, {"acoustic": 11, "face": 7, "words": 2})
    full["face"][3] = np.nan
    full["acoustic"][[0, 4, 10], [1, 2, 4]] = np.nan
    blind = random_clip(2, {"acoustic": 5, "face": 6, "words": 9})
    blind["face"][:] = np.nan
    return [full, random_clip(3, {"acoustic": 4, "words": 1}), blind, random_clip(4, {"face": 1}), {}]


def mixed_batch() -> Batch:
    return double(collate(mixed_clips(), COLUMNS))


# The paper's equations


VALUES: dict[str, list[Any]] = {
    "hops": [1, 2, 3],
    "tied": [False, True],
    "memory": ["mean", "zero"],
    "align": ["multiplicative", "concatenative"],
    "align_size": [None, 1, 5],
    "heads": [1, 2, 3],
    "attend": ["time", "dimensions"],
    "gate": ["joint", "per_modality", "both", "none"],
    "reset": [False, True],
    "skip": [False, True],
    "deviations": [False, True],
}


def drawn_variants(count: int) -> list[Options]:
    """Some of all valid combinations of the options' values."""
    rng, variants = random.Random(0), []
    while len(variants) < count:
        options = {name: rng.choice(values) for name, values in VALUES.items()}
        try:
            ModelConfig(hidden=3, **options)
        except ValueError:
            continue
        variants.append(options)
    return variants


ONE_BY_ONE: list[Options] = [
    {},
    *({name: value} for name, values in VALUES.items() for value in values if value != getattr(ModelConfig(), name)),
]


def name_of(options: Options) -> str:
    default = ModelConfig()
    return "-".join(f"{k}={v}" for k, v in options.items() if v != getattr(default, k)) or "default"


def assert_hops_are(hops: Any, row: int, expected: Any) -> None:
    close = partial(np.testing.assert_allclose, rtol=0, atol=1e-10)
    assert len(hops) == len(expected)
    for hop, of_hop in zip(hops, expected, strict=True):
        for s, alpha in hop.attention.items():
            padded = np.zeros(alpha[row].shape)
            if s in of_hop.attention:
                padded[:, : of_hop.attention[s].shape[1]] = of_hop.attention[s]
            close(alpha[row], padded)
            close(hop.gates[s][row], of_hop.gates.get(s, 0.0))
        close(hop.update[row], of_hop.update)
        close(hop.reset[row], of_hop.reset)
        for s, weights in hop.dimensions.items():
            close(weights[row], of_hop.dimensions.get(s, np.zeros(weights.shape[1])))
        assert set(of_hop.dimensions) <= set(hop.dimensions)


@pytest.mark.parametrize(
    "options",
    [
        *({"architecture": a, **options} for a in ("rrnn", "early") for options in ONE_BY_ONE),
        *({"architecture": "rrnn", **options} for options in drawn_variants(48)),
        *({"architecture": "early", **options} for options in drawn_variants(16)),
        {"architecture": "late"},
    ],
    ids=name_of,
)
def test_model_is_the_papers_equations(options: Options) -> None:
    model = make_model(**options)
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    reference = partial(REFERENCES[model.config.architecture], w=weights, config=model.config, streams=sorted(COLUMNS))
    trained = model(mixed_batch(), explain=True)  # on the CPU, another implementation than without gradients
    with torch.no_grad():
        used = model(mixed_batch(), explain=True)
    for row, clip in enumerate(mixed_clips()):
        prediction, hops = reference(clip)
        for out in (trained, used):
            np.testing.assert_allclose(out.prediction[row].detach(), prediction, rtol=0, atol=1e-10)
            assert_hops_are([detached(hop) for hop in out.hops], row, hops)


def detached(hop: Hop) -> Hop:
    parts = (hop.attention, hop.gates, hop.dimensions)
    attention, gates, dimensions = ({s: x.detach() for s, x in part.items()} for part in parts)
    return Hop(attention, gates, hop.update.detach(), hop.reset.detach(), dimensions)


def test_hops_are_not_kept_unless_asked_for() -> None:
    explained, plain = make_model()(mixed_batch(), explain=True), make_model()(mixed_batch())
    assert len(explained.hops) == 3
    assert not plain.hops
    exactly(explained.prediction, plain.prediction)


def theirs_to_mine(name: str) -> str:
    direction = "backward" if name.endswith("_reverse") else "forward"
    return f"{direction}_lstm.{name.removesuffix('_reverse')}"


def test_encoder_is_torchs_bidirectional_lstm_on_packed_sequences() -> None:
    torch.manual_seed(0)
    encoder = Encoder(4, 5).double()
    packed = torch.nn.LSTM(4, 5, batch_first=True, bidirectional=True).double()
    mine = dict(encoder.named_parameters())
    with torch.no_grad():
        for name, parameter in packed.named_parameters():
            parameter.copy_(mine[theirs_to_mine(name)])
    x, n = torch.randn(3, 7, 4, dtype=torch.float64, requires_grad=True), torch.tensor([7, 1, 4])
    sequence = torch.nn.utils.rnn.pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(packed(sequence)[0], batch_first=True)
    real = torch.arange(7) < n[:, None]
    got = encoder(x, n).transpose(0, 1)
    closely(got[real], expected[real])
    pairs = [(mine[theirs_to_mine(name)], parameter) for name, parameter in packed.named_parameters()]
    of_mine = torch.autograd.grad(got[real].square().sum(), [x, *(p for p, _ in pairs)])
    of_packed = torch.autograd.grad(expected[real].square().sum(), [x, *(p for _, p in pairs)])
    for gradient, expected_gradient in zip(of_mine, of_packed, strict=True):
        closely(gradient, expected_gradient)


# By hand: D = 2, A = 1, weights that are not named are zero, tanh(20) = tanh(40) = 1 in float64


LN3 = math.log(3)
TWO_FRAMES = {"a": [[0, 4], [40, 0]]}  # of average, and m(0), (20, 2)
ALIGNED = {"attention.a.w1.weight": [[1, 0]], "attention.a.w2.0.weight": [[1, 0]]}  # so that R is (0, 1)
OPEN, CLOSED = [1000, 1000], [-1000, -1000]
IDENTITY = [[1, 0], [0, 1]]


def remember(h: dict[str, list[list[float]]], weights: dict[str, Any], **options: Any) -> tuple[list[float], list[Hop]]:
    """The last memory, from encoder outputs h of one clip."""
    recursion = (
        Recursion(sorted(h), 2, ModelConfig(hidden=1, align_size=1, **{"hops": 1, "gate": "none", **options})).double().eval()
    )
    with torch.no_grad():
        for name, parameter in recursion.named_parameters():
            parameter.copy_(doubles(weights.get(name, 0)))
    assert set(weights) <= set(dict(recursion.named_parameters()))
    values = {s: doubles([frames or [[7, 7]]]).transpose(0, 1) for s, frames in h.items()}
    m, hops = recursion(values, {s: torch.tensor([len(frames)]) for s, frames in h.items()}, explain=True)
    return pytest.approx(m[0].tolist(), rel=0, abs=1e-12), hops


def test_by_hand_equal_scores_average() -> None:
    assert remember(TWO_FRAMES, {}, memory="zero")[0] == [20, 2]
    assert remember(TWO_FRAMES, {}, memory="mean")[0] == [20 + 20, 2 + 2]
    assert remember(TWO_FRAMES, {}, memory="mean", hops=3)[0] == [80, 8]
    assert remember({**TWO_FRAMES, "b": [[1, 1]]}, {}, memory="mean")[0] == [21 + 21, 3 + 3]
    assert remember({**TWO_FRAMES, "b": []}, {}, memory="mean")[0] == [40, 4]


def test_by_hand_attention_over_time() -> None:
    m, (hop,) = remember(TWO_FRAMES, {**ALIGNED, "attention.a.w3.0": [[LN3]]})
    closely(hop.attention["a"], doubles([[[1 / 4, 3 / 4]]]))
    assert m == [20 + 30, 2 + 1]
    # tanh(W1 h + W2 m): here (-1, 1), so that half of ln 3 suffices
    against = {**ALIGNED, "attention.a.w2.0.weight": [[-1, 0]], "attention.a.w3.0": [[LN3 / 2]]}
    assert remember(TWO_FRAMES, against, align="concatenative")[0] == [50, 3]


def test_by_hand_each_head_weighs_its_own_dimensions() -> None:
    m, (hop,) = remember(TWO_FRAMES, {**ALIGNED, "attention.a.w3.0": [[0], [LN3]]}, heads=2)
    closely(hop.attention["a"], doubles([[[1 / 2, 1 / 2], [1 / 4, 3 / 4]]]))
    assert m == [20 + 20, 2 + 1]


def test_by_hand_attention_to_dimensions() -> None:
    # R averaged over the frames is 1/2: scores (ln 3, 0), weights (3/4, 1/4), times D = 2, times the average
    m, (hop,) = remember(TWO_FRAMES, {**ALIGNED, "attention.a.w3.0": [[2 * LN3], [0]]}, attend="dimensions")
    closely(hop.dimensions["a"], doubles([[3 / 4, 1 / 4]]))
    assert m == [20 + 30, 2 + 1]
    assert remember(TWO_FRAMES, ALIGNED, attend="dimensions")[0] == [40, 4]


def test_by_hand_memory_update() -> None:
    one = {"a": [[0.2, 0.8]]}  # context and m(0)
    update = partial(remember, one, gate="joint")
    opened: Options = {"memory.gate_c.of_memory.bias": OPEN}
    written: Options = {**opened, "memory.update.of_contexts.weight": IDENTITY}
    assert update({})[0] == [0.1, 0.4]  # g_c is 1/2, u is 0
    assert update({"memory.gate_c.of_memory.bias": CLOSED}, hops=3)[0] == [0.2, 0.8]
    assert update(opened)[0] == [0, 0]
    assert update(written)[0] == [math.tanh(0.1), math.tanh(0.4)]  # g_w is 1/2
    assert update(written, gate="per_modality")[0] == [math.tanh(0.1), math.tanh(0.4)]
    assert update(written, gate="both")[0] == [math.tanh(0.05), math.tanh(0.2)]
    assert update({**written, "memory.gate_w.of_memory.bias": CLOSED})[0] == [0, 0]
    assert update({**written, "memory.gate_w.of_memory.bias": OPEN})[0] == [math.tanh(0.2), math.tanh(0.8)]
    kept: Options = {**opened, "memory.update.of_memory.weight": IDENTITY}
    assert update(kept)[0] == [math.tanh(0.2), math.tanh(0.8)]
    assert update(kept, reset=True)[0] == [math.tanh(0.1), math.tanh(0.4)]  # g_r is 1/2
    assert update({**kept, "memory.gate_r.of_memory.bias": CLOSED}, reset=True)[0] == [0, 0]


def test_a_single_frame_has_all_attention() -> None:
    for options in ({}, {"align": "concatenative"}, {"heads": 2}, {"attend": "dimensions"}, {"architecture": "early"}):
        out = make_model(**options)(double(collate([random_clip(1, {"face": 1})], COLUMNS)), explain=True)
        for hop in out.hops:
            exactly(hop.attention["face"], torch.ones_like(hop.attention["face"]))


def test_zero_memory_makes_the_first_hop_a_plain_average() -> None:
    shape = {"acoustic": 8, "face": 5, "words": 3}
    out = make_model(memory="zero")(double(collate([random_clip(3, shape)], COLUMNS)), explain=True)
    for s, n in shape.items():
        closely(out.hops[0].attention[s][0, 0], doubles([1 / n] * n))


def test_early_fusion_repeats_slower_streams() -> None:
    model = make_model(architecture="early", hops=1, memory="zero")  # the first hop is even over five frames
    (hop,) = model(double(collate([random_clip(3, {"acoustic": 5, "face": 2, "words": 1})], COLUMNS)), explain=True).hops
    closely(hop.attention["acoustic"][0, 0], doubles([1 / 5] * 5))
    closely(hop.attention["face"][0, 0], doubles([2 / 5, 3 / 5]))  # 0 0 1 1 1
    closely(hop.attention["words"][0, 0], doubles([1]))


def test_late_fusion_is_the_weighted_mean_of_its_streams() -> None:
    model = make_model(architecture="late")
    with torch.no_grad():
        model.get_parameter("weights").copy_(doubles([LN3, 0, 0]))  # of acoustic, face, words
    clip = random_clip(1, {"acoustic": 6, "face": 4})
    both, acoustic, face = model(
        double(collate([clip, {"acoustic": clip["acoustic"]}, {"face": clip["face"]}], COLUMNS))
    ).prediction
    closely(both, acoustic * 3 / 4 + face / 4)


def test_dropout_takes_the_same_dimensions_from_all_frames_and_hops() -> None:
    torch.manual_seed(0)
    recursion = Recursion(["a"], 200, ModelConfig(hidden=100, gate="none", hops=3, dropout=0.5)).train()
    m, _ = recursion({"a": torch.ones(5, 2, 200)}, {"a": torch.tensor([5, 3])}, explain=False)
    assert ((m < 1e-5) | ((m - 8).abs() < 1e-4)).all()  # m(0) and three contexts, each 0 or 2
    assert 0.3 < (m > 1).float().mean() < 0.7
    assert (m[0] != m[1]).any()


# Nothing outside a clip's own frames matters


ALL_KINDS: list[Options] = [
    {},
    {"align": "concatenative", "heads": 2, "gate": "per_modality"},
    {"attend": "dimensions", "gate": "both", "reset": True, "memory": "zero"},
    {"gate": "none", "tied": True, "heads": 3},
    {"architecture": "early", "heads": 2},
    {"architecture": "early", "attend": "dimensions", "gate": "both"},
    {"architecture": "late"},
]
shapes = st.fixed_dictionaries({s: st.integers(0, 12) for s in COLUMNS})


def outcome(model: Model, batch: Batch, row: int) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """A clip's prediction, and its gradients by all inputs of the batch and all parameters."""
    values = {s: v.clone().requires_grad_() for s, v in batch.values.items()}
    prediction = model(Batch(values, batch.lengths)).prediction[row]
    named = dict(model.named_parameters())
    score = prediction @ doubles([1, -2, 0.5])
    gradients = torch.autograd.grad(score, [*values.values(), *named.values()])
    split = len(values)
    by_input, by_weight = gradients[:split], gradients[split:]
    return prediction, dict(zip(values, by_input, strict=True)), dict(zip(named, by_weight, strict=True))


def fill_padding(batch: Batch, value: float) -> Batch:
    """With rows of padding added, too."""
    filled = {}
    for s, v in batch.values.items():
        padded = torch.cat([v, torch.zeros_like(v[:, :2])], dim=1)
        padded[torch.arange(padded.shape[1]) >= batch.lengths[s][:, None]] = value
        filled[s] = padded
    return Batch(filled, batch.lengths)


@pytest.mark.parametrize("options", ALL_KINDS, ids=name_of)
@settings(max_examples=10, deadline=None, derandomize=True)
@example([{"acoustic": 2, "face": 0, "words": 1}, {"acoustic": 300, "face": 100, "words": 12}], 0, math.nan)
@example([{"acoustic": 250, "face": 1, "words": 0}, {"acoustic": 1, "face": 7, "words": 30}], 1, 1e6)
@given(st.lists(shapes, min_size=1, max_size=4), st.integers(0, 1000), st.sampled_from([1e6, math.nan, -3.0]))
def test_a_clips_output_and_gradients_depend_on_the_clip_alone(
    options: Options, lengths: list[dict[str, int]], seed: int, padding: float
) -> None:
    model = make_model(**options)
    clips = [random_clip(seed + i, shape) for i, shape in enumerate(lengths)]
    row = seed % len(clips)
    prediction, by_input, by_weight = outcome(model, fill_padding(double(collate(clips, COLUMNS)), padding), row)
    alone, alone_by_input, alone_by_weight = outcome(model, double(collate([clips[row]], COLUMNS)), 0)
    closely(prediction, alone)
    for s, gradient in by_input.items():
        n = lengths[row][s]
        closely(gradient[row, :n], alone_by_input[s][0, :n])
        exactly(gradient[row, n:], torch.zeros_like(gradient[row, n:]))
        others = torch.arange(len(clips)) != row
        exactly(gradient[others], torch.zeros_like(gradient[others]))
    for name, gradient in by_weight.items():
        torch.testing.assert_close(gradient, alone_by_weight[name], rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("options", ALL_KINDS, ids=name_of)
def test_what_fills_the_padding_changes_no_bit(options: Options) -> None:
    model = make_model(**options)
    expected = model(fill_padding(mixed_batch(), 0.0), explain=True)
    for value in (1e6, math.nan, -1e30):
        out = model(fill_padding(mixed_batch(), value), explain=True)
        exactly(out.prediction, expected.prediction)
        for hop, expected_hop in zip(out.hops, expected.hops, strict=True):
            exactly(hop.attention, expected_hop.attention)


@pytest.mark.parametrize("options", ALL_KINDS, ids=name_of)
def test_an_absent_stream_has_no_gradient_and_no_weight(options: Options) -> None:
    model = make_model(**options)
    batch = double(collate([random_clip(7, {"acoustic": 9, "words": 4}), random_clip(8, {"words": 2})], COLUMNS))
    values = {s: v.requires_grad_() for s, v in batch.values.items()}
    out = model(Batch(values, batch.lengths), explain=True)
    out.prediction.square().sum().backward()
    assert not values["face"].grad.any()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name  # all take part, as data-parallel training needs
        if "face" in name.split("."):
            assert not parameter.grad.any(), name
        elif model.config.memory == "mean":  # without, some may well be zero
            assert parameter.grad.any(), name
    face = sorted(COLUMNS).index("face")
    if isinstance(model, LateFusion):
        assert not model.weights.grad[face]
    if isinstance(model, RRNN) and model.config.gate != "none":
        of_face = slice(6 * face, 6 * face + 6)
        for name in ("gate_w", "gate_c", "gate_r", "update"):
            if hasattr(model.recursion.memory, name):
                assert not getattr(model.recursion.memory, name).of_contexts.weight.grad[:, of_face].any(), name
    for hop in out.hops:
        assert not hop.attention["face"].any()
        assert not hop.gates["face"].any()
        assert "face" not in hop.dimensions or not hop.dimensions["face"].any()


def test_attention_sums_to_one_over_real_frames_and_gates_are_between_0_and_1() -> None:
    batch = mixed_batch()
    for options in ALL_KINDS:
        for hop in make_model(**options)(batch, explain=True).hops:
            for s, alpha in hop.attention.items():
                here = (batch.lengths[s] > 0).double()
                closely(alpha.sum(-1), here[:, None].expand(alpha.shape[:2]))
                padding = torch.arange(alpha.shape[-1]) >= batch.lengths[s][:, None]
                assert not (alpha * padding[:, None]).any()
                assert ((hop.gates[s] > 0) == (here > 0)).all()
                assert (hop.gates[s] <= 1).all()
            assert all(((x > 0) & (x <= 1)).all() for x in (hop.update, hop.reset))
            assert all(
                torch.isin(d.sum(-1).round(decimals=12), torch.tensor([0.0, 1.0])).all() for d in hop.dimensions.values()
            )


def test_the_order_in_which_streams_are_named_does_not_matter() -> None:
    there, back = make_model(COLUMNS), make_model(dict(reversed(COLUMNS.items())))
    exactly(back.state_dict(), there.state_dict())
    batch = mixed_batch()
    exactly(back(Batch(dict(reversed(batch.values.items())), batch.lengths)).prediction, there(batch).prediction)


# Gradients


GRADIENTS: list[Options] = [
    {},
    {"align": "concatenative"},
    {"heads": 2},
    {"attend": "dimensions"},
    {"gate": "per_modality"},
    {"gate": "both", "reset": True},
    {"gate": "none"},
    {"tied": True},
    {"skip": True},
    {"deviations": True},
    {"architecture": "early"},
    {"architecture": "early", "deviations": True},
    {"architecture": "late", "skip": True},
]


@pytest.mark.parametrize("options", GRADIENTS, ids=name_of)
def test_gradients_are_those_of_finite_differences(options: Options) -> None:
    columns = {"a": 2, "b": 1}
    model = make_model(columns, hidden=2, **({} if options.get("architecture") == "late" else {"hops": 2}), **options)
    batch = double(collate([random_clip(1, {"a": 3, "b": 2}, columns), random_clip(2, {"a": 2}, columns)], columns))
    names = [name for name, _ in model.named_parameters()]

    def predict(a: Tensor, b: Tensor, *parameters: Tensor) -> Tensor:
        state = {**dict(model.named_buffers()), **dict(zip(names, parameters, strict=True))}
        out: Tensor = torch.func.functional_call(model, state, (Batch({"a": a, "b": b}, batch.lengths),)).prediction
        return out

    inputs = [batch.values[s].requires_grad_() for s in columns]
    parameters = [p.detach().clone() for p in model.parameters()]
    assert gradcheck(partial_last(predict, parameters), inputs)
    assert gradcheck(predict, [*inputs, *(p.requires_grad_() for p in parameters)], fast_mode=True)


def partial_last(f: Callable[..., Tensor], last: list[Tensor]) -> Callable[..., Tensor]:
    return lambda *first: f(*first, *last)


class PlainFrames:
    """Eqs. 5 (its half without the memory) to 8, clip by clip in plain operations: for autograd to differentiate."""

    def __init__(self, h_KBD: Tensor, lengths_B: Tensor, w1_AD: Tensor, product: bool) -> None:
        assert product
        h_BKD = h_KBD.transpose(0, 1)
        self.clips = [(h_KD[:n], torch.tanh(h_KD[:n] @ w1_AD.T)) for h_KD, n in zip(h_BKD, lengths_B.tolist(), strict=True)]
        self.padded = h_BKD.shape[1]

    def average(self) -> Tensor:
        return torch.stack([h_KD.sum(0) / max(1, len(h_KD)) for h_KD, _ in self.clips])

    def attend(self, query_BNA: Tensor, first: int) -> tuple[Tensor, Tensor]:
        contexts, alphas = [], []
        for query_NA, (h_KD, keys_KA) in zip(query_BNA, self.clips, strict=True):
            alpha_NK = torch.softmax(query_NA @ keys_KA[:, first : first + query_NA.shape[1]].T, dim=-1)
            contexts.append(alpha_NK @ h_KD)
            alphas.append(torch.nn.functional.pad(alpha_NK, (0, self.padded - len(h_KD))))
        return torch.stack(contexts), torch.stack(alphas)


def gradients(model: Model, batch: Batch) -> list[Tensor]:
    """By inputs and parameters; twice the same where the graph is kept."""
    values = {s: v.clone().requires_grad_() for s, v in batch.values.items()}
    loss = model(Batch(values, batch.lengths)).prediction.square().sum()
    inputs = [*values.values(), *model.parameters()]
    once = torch.autograd.grad(loss, inputs, retain_graph=True)
    for again, expected in zip(torch.autograd.grad(loss, inputs), once, strict=True):
        exactly(again, expected)
    return list(once)


@pytest.mark.parametrize("architecture", ["rrnn", "early"])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(("hops", "tied"), [(1, False), (2, False), (2, True), (3, False), (3, True)])
def test_the_hops_one_gradient_is_that_of_plain_formulas(
    architecture: str, heads: int, hops: int, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for memory in ("mean", "zero"):
        model = make_model(architecture=architecture, heads=heads, hops=hops, tied=tied, memory=memory)
        fast = gradients(model, mixed_batch())
        with monkeypatch.context() as patch:
            patch.setattr(rrnn.model, "Frames", PlainFrames)
            plain = gradients(model, mixed_batch())
        for name, got, expected in zip([*COLUMNS, *dict(model.named_parameters())], fast, plain, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("frozen", ["encoders", "recursion.attention", "recursion.memory", "decoder"])
def test_freezing_a_part_leaves_the_other_gradients(frozen: str) -> None:
    model, partly = make_model(), make_model()
    for name, parameter in partly.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    for m in (model, partly):
        m(mixed_batch()).prediction.square().sum().backward()
    for (name, expected), got in zip(model.named_parameters(), partly.parameters(), strict=True):
        if name.startswith(frozen):
            assert got.grad is None
        else:
            closely(got.grad, expected.grad)


def test_a_gradient_by_some_parameters_leaves_the_next_one_right() -> None:
    model = make_model()
    loss = model(mixed_batch()).prediction.square().sum()
    w1 = model.get_parameter("recursion.attention.face.w1.weight")
    (expected,) = torch.autograd.grad(loss, [w1], retain_graph=True)
    torch.autograd.grad(loss, [model.get_parameter("recursion.attention.face.w2.0.weight")], retain_graph=True)
    closely(torch.autograd.grad(loss, [w1])[0], expected)


def test_a_partial_gradient_leaves_nothing_in_memory() -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    model, batch = make_model(), mixed_batch()
    with pytest.MonkeyPatch.context() as patch:
        kept = rrnn.frames._Looks.__init__
        patch.setattr(rrnn.frames._Looks, "__init__", lambda looks: (alive.add(looks), kept(looks))[1])
        patch.setattr(rrnn.frames._Looks, "__hash__", object.__hash__)
        for _ in range(3):
            torch.autograd.grad(model(batch).prediction.sum(), [model.get_parameter("recursion.attention.face.w2.0.weight")])
    gc.collect()
    assert not alive


# Numbers, sizes, training


@pytest.mark.parametrize("options", ALL_KINDS, ids=name_of)
def test_float32_is_close_to_float64(options: Options) -> None:
    model = make_model(**options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.float() / 3)
    batch = collate([random_clip(1, {"acoustic": 300, "face": 90, "words": 12}), random_clip(2, {"face": 3})], COLUMNS)
    for layer in model.standardise.values():
        layer.float().double()  # the same weights, rounded
    exact = model(double(batch)).prediction
    torch.testing.assert_close(model.float()(batch).prediction.double(), exact, rtol=0, atol=1e-5)


def test_the_size_of_a_batch_changes_float32_results_by_rounding_alone() -> None:
    torch.manual_seed(0)
    model = RRNN(ModelConfig(hidden=64), COLUMNS, 8).eval()
    rng = np.random.default_rng(0)
    clips = [random_clip(i, {"acoustic": int(rng.integers(1, 300)), "face": int(rng.integers(0, 90))}) for i in range(33)]
    with torch.inference_mode():
        together = torch.softmax(model(collate(clips, COLUMNS)).prediction, dim=-1)
        for size in (1, 7, 16):
            parts = [model(collate(clips[i : i + size], COLUMNS)).prediction for i in range(0, len(clips), size)]
            torch.testing.assert_close(torch.softmax(torch.cat(parts), dim=-1), together, rtol=0, atol=1e-6)


def sizes(gate: str) -> np.ndarray:
    models = [make_model({f"s{i}": 2 for i in range(n)}, gate=gate) for n in range(1, 9)]
    return np.array([sum(p.numel() for p in model.parameters()) for model in models])


def test_parameters_grow_linearly_with_the_streams_unless_one_gate_is_for_all() -> None:
    assert not np.diff(sizes("per_modality"), 2).any()
    assert not np.diff(sizes("none"), 2).any()
    assert (np.diff(sizes("joint"), 2) == 2 * 6 * 6).all()  # W_ww is (S D, S D)


@pytest.mark.parametrize("architecture", ["rrnn", "early", "late", "naive"])
@pytest.mark.parametrize("streams", [1, 2, 8])
def test_any_number_of_streams(architecture: str, streams: int) -> None:
    columns = {f"s{i}": 2 + i for i in range(streams)}
    model = make_model(columns, architecture=architecture)
    batch = double(collate([random_clip(0, dict.fromkeys(columns, 3), columns), {}], columns))
    assert model(batch).prediction.shape == (2, 3)
    assert model(batch).prediction.isfinite().all()


def test_tying_removes_all_hops_but_one() -> None:
    def count(**options: Any) -> int:
        return sum(p.numel() for name, p in make_model(**options).named_parameters() if ".attention." in name)

    assert count(hops=3) == 3 * count(hops=1) == 3 * count(hops=3, tied=True)


@pytest.mark.parametrize("options", [{}, ALL_KINDS[2], {"architecture": "early"}, {"architecture": "late"}], ids=name_of)
def test_two_clips_are_learned_by_heart(options: Options) -> None:
    torch.manual_seed(0)
    attends = {} if options.get("architecture") == "late" else {"align_size": 3}
    config = ModelConfig(**{"hidden": 6, **attends, **options})
    model = CLASSES[config.architecture](config, COLUMNS, 3).eval()
    batch = collate([random_clip(1, {"acoustic": 9, "face": 5}), random_clip(2, {"acoustic": 7, "words": 3})], COLUMNS)
    adam = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(batch).prediction, torch.tensor([2, 0]))
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert loss < 0.01


@pytest.mark.parametrize("options", ALL_KINDS, ids=name_of)
def test_the_same_seed_gives_the_same_bits(options: Options) -> None:
    def step() -> list[Tensor]:
        torch.manual_seed(1)
        config = ModelConfig(**{"hidden": 6, **options})
        model = CLASSES[config.architecture](config, COLUMNS, 3).train()
        loss = model(collate(mixed_clips(), COLUMNS)).prediction.square().sum()
        return [loss.detach(), *model.parameters(), *torch.autograd.grad(loss, list(model.parameters()))]

    exactly(step(), step())


def test_the_naive_model_does_not_look() -> None:
    model = make_model(architecture="naive")
    exactly(model(mixed_batch()).prediction, model.get_parameter("constant").expand(5, 3))


# Golden outputs


GOLDEN_VARIANTS: dict[str, Options] = {
    "default": {},
    "concatenative, 2 heads, per_modality": {"align": "concatenative", "heads": 2, "gate": "per_modality"},
    "dimensions, both, reset, zero": {"attend": "dimensions", "gate": "both", "reset": True, "memory": "zero"},
    "none, tied, align_size 5": {"gate": "none", "tied": True, "align_size": 5},
    "early": {"architecture": "early"},
    "late": {"architecture": "late"},
}


def golden_outputs(options: Options) -> list[list[float]]:
    """With weights, then inputs, that are sin(1 + 0.7 i) for i = 0, 1, ...: weights in the order of their names (a standard
    deviation is 1.5 + sin / 2), inputs (two clips) in the order of the streams' names. No random generator has a part."""
    model, i = make_model(**options), 0

    def wave(shape: torch.Size | tuple[int, ...]) -> Tensor:
        nonlocal i
        start, i = i, i + math.prod(shape)
        return torch.sin(1 + 0.7 * torch.arange(start, i, dtype=torch.float64)).reshape(shape)

    state = {name: wave(value.shape) for name, value in sorted(model.state_dict().items())}
    model.load_state_dict({name: 1.5 + value / 2 if name.endswith(".std") else value for name, value in state.items()})
    lengths = {"acoustic": [6, 4], "face": [3, 0], "words": [2, 5]}
    values = {s: wave((2, max(n), COLUMNS[s])) for s, n in lengths.items()}
    with torch.no_grad():
        out: list[list[float]] = model(Batch(values, {s: torch.tensor(n) for s, n in lengths.items()})).prediction.tolist()
    return out


@pytest.mark.parametrize("name", GOLDEN_VARIANTS)
def test_outputs_are_those_of_earlier_versions(name: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    np.testing.assert_allclose(golden_outputs(GOLDEN_VARIANTS[name]), golden["outputs"][name], rtol=0, atol=1e-9)


def write_golden() -> None:
    content = {
        "made_by": "PYTHONPATH=. python tests/rrnn/test_model.py (weights and inputs: golden_outputs in that file)",
        "outputs": {name: golden_outputs(options) for name, options in GOLDEN_VARIANTS.items()},
    }
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")


# Configuration


def test_a_wrong_configuration_names_the_field() -> None:
    with pytest.raises(ValueError, match=r"model\.hops: Input should be greater than or equal to 1, found 0"):
        config_from_dict({"model": {"hops": 0}})
    with pytest.raises(ValueError, match=r"model\.hop: Unexpected keyword argument"):
        config_from_dict({"model": {"hop": 2}})
    with pytest.raises(
        ValueError, match=r"model\.gate: Input should be 'joint', 'per_modality', 'both' or 'none', found 'all'"
    ):
        config_from_dict({"model": {"gate": "all"}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "late", "hops": 2}, "'late' does not use hops"),
        ({"architecture": "late", "gate": "none", "heads": 2}, "'late' does not use heads, gate"),
        ({"architecture": "naive", "hidden": 64}, "'naive' does not use hidden"),
        ({"architecture": "early", "layers": 2}, "'early' does not use layers"),
        ({"hidden": 3, "heads": 4}, "4 heads can't share 6 dimensions evenly"),
        ({"heads": 2, "attend": "dimensions"}, "expected heads=1"),
        ({"gate": "none", "reset": True}, "expected another gate, or reset=false"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(options: Options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)


if __name__ == "__main__":
    write_golden()
