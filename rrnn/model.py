"""The recursive recurrent neural network (RRNN) of Beard et al., "Multi-modal Sequence Fusion via Recursive Attention for
Emotion Recognition", CoNLL 2018, in the paper's order.

Axes, as suffixes of names: B clips, K frames of a stream, F its columns, D = 2 * hidden, A alignment space, S streams,
C classes (or intensities). The paper's indices: s a stream, tau a hop.

Streams are keys of a dict, any number of them, each with its own length and rate. A stream that a clip does not have has
length 0 there: its average, its context and its part of every gate's input are exactly zero, so that the clip's output is
the one of a batch in which the stream never was. Nothing a clip's output depends on lies outside its own real frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from rrnn.config import ModelConfig

MASKED = -1e30  # a score that no softmax gives weight, and no subtraction turns into NaN


@dataclass(frozen=True)
class Batch:
    """Clips side by side. values[s]: (B, K_s, F_s) float32, padded, NaN where nothing was observed. lengths[s]: (B,) int64,
    the number of real frames, 0 where the clip does not have the stream. K_s is at least 1."""

    values: dict[str, Tensor]
    lengths: dict[str, Tensor]

    def to(self, device: torch.device) -> Batch:
        return Batch({s: v.to(device) for s, v in self.values.items()}, {s: n.to(device) for s, n in self.lengths.items()})


@dataclass(frozen=True)
class Output:
    """prediction: (B, C), logits of classes or intensities. attention[tau][s]: (B, K_s), each row sums to 1, or to 0 where
    the clip does not have the stream. gates[tau][s]: (B,), mean of the joint gate (eq. 9) over the stream's part. Both are
    empty unless asked for."""

    prediction: Tensor
    attention: list[dict[str, Tensor]] = field(default_factory=list)
    gates: list[dict[str, Tensor]] = field(default_factory=list)


class Standardise(nn.Module):
    """(x - mean) / std of each column, with the training clips' statistics; NaN (not observed) becomes the mean, 0."""

    mean: Tensor
    std: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("std", torch.ones(columns))

    def forward(self, x_BKF: Tensor) -> Tensor:
        return torch.nan_to_num((x_BKF - self.mean) / self.std, nan=0.0)


class Encoder(nn.Module):
    """Bidirectional LSTM (eqs. 1-3), exact for padded sequences without packing them: the backward direction is a forward
    LSTM over each sequence reversed within its own length, reversed back."""

    def __init__(self, columns: int, hidden: int) -> None:
        super().__init__()
        self.forward_lstm = nn.LSTM(columns, hidden, batch_first=True)
        self.backward_lstm = nn.LSTM(columns, hidden, batch_first=True)

    def forward(self, x_BKF: Tensor, lengths_B: Tensor) -> Tensor:
        """(B, K, F), (B,) -> (B, K, D). Rows past a length hold no meaning."""
        clips, frames, _ = x_BKF.shape
        k_K = torch.arange(frames, device=x_BKF.device)
        reversed_BK = torch.where(k_K < lengths_B[:, None], lengths_B[:, None] - 1 - k_K, k_K)
        # Whole rows of the flattened batch: on the CPU, several times faster to differentiate than gathering elements.
        rows = (reversed_BK + frames * torch.arange(clips, device=x_BKF.device)[:, None]).flatten()

        def reverse(y_BKX: Tensor) -> Tensor:
            return y_BKX.flatten(0, 1).index_select(0, rows).view_as(y_BKX)

        forward_BKH, _ = self.forward_lstm(x_BKF)
        backward_BKH, _ = self.backward_lstm(reverse(x_BKF))
        return torch.cat([forward_BKH, reverse(backward_BKH)], dim=-1)


class Attention(nn.Module):
    """Globally contextualised attention of one stream over its frames, for all hops (eqs. 5-8).

    tanh(W_s1 H) does not depend on the memory: all hops' projections are one product, before the first hop.
    """

    def __init__(self, dim: int, align: int, hops: int, tied: bool) -> None:
        super().__init__()
        n = 1 if tied else hops
        self.w1 = nn.Linear(dim, n * align, bias=False)  # W_s1 of every hop
        self.w2 = nn.ModuleList(nn.Linear(dim, align, bias=False) for _ in range(n))  # W_s2
        self.w3 = nn.ParameterList(nn.Parameter(torch.empty(align).uniform_(-(align**-0.5), align**-0.5)) for _ in range(n))

    def keys(self, h_BKD: Tensor) -> list[Tensor]:
        """tanh(W_s1 H), (B, K, A), one for each hop with weights of its own."""
        return list(torch.tanh(self.w1(h_BKD)).chunk(len(self.w2), dim=-1))

    def forward(self, hop: int, keys: list[Tensor], h_BKD: Tensor, mask_BK: Tensor, m_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Context (B, D) and attention weights (B, K) of one hop, given the memory."""
        i = hop % len(self.w2)
        # eqs. 5 and 6: w_s3 (keys * query) over the alignment space, without holding the product
        query_BA = torch.tanh(self.w2[i](m_BD)) * self.w3[i]
        scores_BK = torch.bmm(keys[i], query_BA[..., None])[..., 0]
        # eq. 7, over the real frames
        alpha_BK = torch.softmax(scores_BK.masked_fill(~mask_BK, MASKED), dim=-1) * mask_BK
        return torch.bmm(alpha_BK[:, None], h_BKD)[:, 0], alpha_BK  # eq. 8


class JointGate(nn.Module):
    """Gated update of the shared memory (eqs. 9, 10, 12, 13), with one gate for the concatenated contexts w."""

    def __init__(self, dim: int, streams: int) -> None:
        super().__init__()
        wide = streams * dim
        self.gate_w = _Affine(dim, wide, wide)  # W_wm, W_ww, b_w
        self.gate_c = _Affine(dim, wide, dim)  # W_cm, W_cw, b_c
        self.update = _Affine(dim, wide, dim)  # W_um, W_uw, b_u

    def forward(self, m_BD: Tensor, w_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """The next memory (B, D), and the gate g_w as (B, S, D)."""
        w = w_BSD.flatten(1)
        g_w = torch.sigmoid(self.gate_w(m_BD, w))  # eq. 9
        g_c = torch.sigmoid(self.gate_c(m_BD, w))  # eq. 10
        u_BD = torch.tanh(self.update(m_BD, g_w * w))  # eq. 12
        return (1 - g_c) * m_BD + g_c * u_BD, g_w.view_as(w_BSD)  # eq. 13


class _Affine(nn.Module):
    """W_m m + W_w w + b."""

    def __init__(self, memory: int, wide: int, out: int) -> None:
        super().__init__()
        self.of_memory = nn.Linear(memory, out)
        self.of_contexts = nn.Linear(wide, out, bias=False)

    def forward(self, m: Tensor, w: Tensor) -> Tensor:
        out: Tensor = self.of_memory(m) + self.of_contexts(w)
        return out


class RRNN(nn.Module):
    """columns: number of columns of each stream, by its name; outputs: number of classes or intensities."""

    def __init__(self, config: ModelConfig, columns: Mapping[str, int], outputs: int) -> None:
        super().__init__()
        self.config = config
        self.streams = tuple(sorted(columns))
        dim = 2 * config.hidden
        self.standardise = nn.ModuleDict({s: Standardise(columns[s]) for s in self.streams})
        self.encoders = nn.ModuleDict({s: Encoder(columns[s], config.hidden) for s in self.streams})
        self.attention = nn.ModuleDict({s: Attention(dim, config.hidden, config.hops, config.tied) for s in self.streams})
        self.gate = JointGate(dim, len(self.streams))
        self.dropout = nn.Dropout(config.dropout)
        self.decoder = nn.Sequential(nn.Linear(dim, config.hidden), nn.ReLU(), nn.Dropout(config.dropout))
        self.output = nn.Linear(config.hidden, outputs)

    def forward(self, batch: Batch, explain: bool = False) -> Output:
        h, mask, keys = {}, {}, {}
        for s in self.streams:
            x_BKF, lengths_B = batch.values[s], batch.lengths[s]
            k_K = torch.arange(x_BKF.shape[1], device=x_BKF.device)
            mask[s] = k_K < lengths_B[:, None]
            h[s] = self.encoders[s](self.standardise[s](x_BKF), lengths_B)
            keys[s] = cast(Attention, self.attention[s]).keys(h[s])

        # Dropout of the encoders' outputs, one mask a clip for all frames and hops (Gal and Ghahramani 2016), put where it
        # costs D numbers and not K * D: on what is averaged, which is the same.
        keep_BSD = self.dropout(torch.stack([h[s].new_ones(h[s].shape[0], h[s].shape[2]) for s in self.streams], dim=1))
        m_BD = torch.zeros_like(keep_BSD[:, 0])
        if self.config.memory == "mean":  # m(0): the averages over the real frames, summed over the streams
            shares = {s: mask[s].to(h[s].dtype) / batch.lengths[s].clamp(min=1)[:, None] for s in self.streams}
            means_BSD = torch.stack([torch.bmm(shares[s][:, None], h[s])[:, 0] for s in self.streams], dim=1)
            m_BD = (means_BSD * keep_BSD).sum(1)

        attention: list[dict[str, Tensor]] = []
        gates: list[dict[str, Tensor]] = []
        for hop in range(self.config.hops):
            contexts, weights = zip(*(self.attention[s](hop, keys[s], h[s], mask[s], m_BD) for s in self.streams), strict=True)
            m_BD, g_BSD = self.gate(m_BD, torch.stack(contexts, dim=1) * keep_BSD)
            if explain:
                attention.append(dict(zip(self.streams, weights, strict=True)))
                gates.append(dict(zip(self.streams, g_BSD.mean(-1).unbind(1), strict=True)))
        return Output(self.output(self.decoder(m_BD)), attention, gates)  # sec. 3.4
