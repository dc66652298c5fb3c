from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import rrnn as reference_rrnn

from rrnn.config import ModelConfig, config_from_dict
from rrnn.data import collate
from rrnn.model import RRNN, Batch, Encoder

COLUMNS = {"acoustic": 5, "face": 3, "words": 4}


def make_model(columns: dict[str, int] = COLUMNS, **options: object) -> RRNN:
    torch.manual_seed(0)
    model = RRNN(ModelConfig(**{"hidden": 6, **options}), columns, 3).double().eval()  # type: ignore[arg-type]
    for layer in model.standardise.values():
        layer.mean.normal_()
        layer.std.uniform_(0.5, 2.0)
    return model


def double(batch: Batch) -> Batch:
    return Batch({s: v.double() for s, v in batch.values.items()}, batch.lengths)


def random_clip(seed: int, lengths: dict[str, int], columns: dict[str, int] = COLUMNS) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {s: random.normal(size=(n, columns[s])).astype(np.float32) for s, n in lengths.items() if n}


@pytest.mark.parametrize("memory", ["mean", "zero"])
@pytest.mark.parametrize(("hops", "tied"), [(1, False), (3, False), (3, True)])
def test_model_is_the_papers_equations(hops: int, tied: bool, memory: str) -> None:
    model = make_model(hops=hops, tied=tied, memory=memory)
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    full = random_clip(1, {"acoustic": 11, "face": 7, "words": 2})
    full["face"][3] = np.nan
    faceless = random_clip(2, {"acoustic": 4, "words": 1})
    out = model(double(collate([full, faceless], COLUMNS))).prediction.detach().numpy()
    for row, clip in zip(out, (full, faceless), strict=True):
        expected = reference_rrnn(clip, weights, sorted(COLUMNS), hops, tied, memory)
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-12)


def test_zero_memory_makes_the_first_hop_a_plain_average() -> None:
    model = make_model(memory="zero")
    out = model(double(collate([random_clip(3, {"acoustic": 8, "face": 5, "words": 3})], COLUMNS)), explain=True)
    for s, n in {"acoustic": 8, "face": 5, "words": 3}.items():
        torch.testing.assert_close(out.attention[0][s][0], torch.full((n,), 1 / n, dtype=torch.float64))


lengths = st.fixed_dictionaries({s: st.integers(0, 40) for s in COLUMNS}).filter(lambda d: any(d.values()))


@settings(max_examples=25, deadline=None)
@given(st.lists(lengths, min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_a_clips_output_does_not_depend_on_its_batch(shapes: list[dict[str, int]], seed: int) -> None:
    model = make_model()
    clips = [random_clip(seed + i, shape) for i, shape in enumerate(shapes)]
    together = model(double(collate(clips, COLUMNS))).prediction
    alone = torch.cat([model(double(collate([c], COLUMNS))).prediction for c in clips])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_padding_may_hold_anything() -> None:
    model = make_model()
    batch = double(collate([random_clip(5, {"acoustic": 9, "face": 2}), random_clip(6, {"acoustic": 3, "words": 4})], COLUMNS))
    poisoned = {s: v.clone() for s, v in batch.values.items()}
    for s, n in batch.lengths.items():
        for row, length in enumerate(n.tolist()):
            poisoned[s][row, length:] = 1e6
    torch.testing.assert_close(model(Batch(poisoned, batch.lengths)).prediction, model(batch).prediction, rtol=0, atol=0)


def test_an_absent_stream_leaves_no_gradient_and_no_weight() -> None:
    model = make_model()
    out = model(double(collate([random_clip(7, {"acoustic": 9, "words": 4})], COLUMNS)), explain=True)
    out.prediction.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name  # all take part, as data-parallel training needs
        of_face = name.startswith(("encoders.face", "attention.face"))
        assert bool(parameter.grad.abs().sum() == 0) == of_face, name
    assert all(a["face"].sum() == 0 for a in out.attention)


def test_attention_sums_to_one_over_real_frames_and_gates_are_open_between_0_and_1() -> None:
    model = make_model(hops=2)
    batch = double(collate([random_clip(8, {"acoustic": 9, "face": 1, "words": 4}), random_clip(9, {"face": 6})], COLUMNS))
    out = model(batch, explain=True)
    assert len(out.attention) == len(out.gates) == 2
    for weights in out.attention:
        for s, alpha in weights.items():
            torch.testing.assert_close(alpha.sum(1), (batch.lengths[s] > 0).double())
            assert (alpha[torch.arange(alpha.shape[1]) >= batch.lengths[s][:, None]] == 0).all()
    assert all(((g >= 0) & (g <= 1)).all() for gates in out.gates for g in gates.values())


def test_encoder_is_torchs_bidirectional_lstm_on_packed_sequences() -> None:
    torch.manual_seed(0)
    encoder = Encoder(4, 5).double()
    packed = torch.nn.LSTM(4, 5, batch_first=True, bidirectional=True).double()
    mine = dict(encoder.named_parameters())
    with torch.no_grad():
        for name, parameter in packed.named_parameters():
            reverse = name.endswith("_reverse")
            parameter.copy_(mine[f"{'backward' if reverse else 'forward'}_lstm.{name.removesuffix('_reverse')}"])
    x, n = torch.randn(3, 7, 4, dtype=torch.float64), torch.tensor([7, 1, 4])
    sequence = torch.nn.utils.rnn.pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(packed(sequence)[0], batch_first=True)
    real = torch.arange(7) < n[:, None]
    torch.testing.assert_close(encoder(x, n)[real], expected[real])


def test_gradients_are_right() -> None:
    model = make_model({"a": 2, "b": 2}, hidden=3, hops=2)
    batch = double(collate([random_clip(1, {"a": 4, "b": 2}, {"a": 2, "b": 2})], {"a": 2, "b": 2}))

    def f(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return model(Batch({"a": a, "b": b}, batch.lengths)).prediction

    inputs = [batch.values[s].clone().requires_grad_() for s in ("a", "b")]
    assert torch.autograd.gradcheck(f, inputs)


def test_float32_is_close_to_float64() -> None:
    model = make_model()
    batch = collate([random_clip(1, {"acoustic": 300, "face": 90, "words": 12})], COLUMNS)
    exact = model(double(batch)).prediction
    torch.testing.assert_close(model.float()(batch).prediction.double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("streams", [1, 2, 5, 8])
def test_any_number_of_streams(streams: int) -> None:
    columns = {f"s{i}": 2 + i for i in range(streams)}
    model = make_model(columns)
    clip = random_clip(0, dict.fromkeys(columns, 3), columns)
    assert model(double(collate([clip], columns))).prediction.shape == (1, 3)


def test_tying_removes_all_hops_but_one() -> None:
    def count(**options: object) -> int:
        return sum(p.numel() for p in make_model(**options).attention.parameters())

    assert count(hops=3) == 3 * count(hops=1) == 3 * count(hops=3, tied=True)


def test_a_wrong_configuration_names_the_field() -> None:
    with pytest.raises(ValueError, match=r"model\.hops: Input should be greater than or equal to 1, found 0"):
        config_from_dict({"model": {"hops": 0}})
    with pytest.raises(ValueError, match=r"model\.hop: Unexpected keyword argument"):
        config_from_dict({"model": {"hop": 2}})
