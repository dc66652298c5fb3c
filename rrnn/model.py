"""The recursive recurrent neural network (RRNN) of Beard et al., "Multi-modal Sequence Fusion via Recursive Attention for
Emotion Recognition", CoNLL 2018, in the paper's order and with each choice that it leaves open; then the paper's baselines.

Axes, as suffixes of names: B clips, K frames of a stream, F its columns, D what is attended to (2 * hidden), A alignment
space, N heads, S streams, C classes (or intensities). The paper's indices: s a stream, tau a hop.

Streams are keys of a dict, any number of them, each with its own length and rate. A stream that a clip does not have has
length 0 there: its average, its context and its part of every gate's input are exactly zero, so that the clip's output is
the one of a batch in which the stream never was. Nothing a clip's output depends on lies outside its own real frames.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from rrnn.config import ModelConfig
from rrnn.frames import MASKED, Frames, real_frames

SKIP_GAIN = 0.1  # of the LSTMs beside the linear map, at first: they have to earn more


@dataclass(frozen=True)
class Batch:
    """Clips side by side. values[s]: (B, K_s, F_s) float32, padded, NaN where nothing was observed. lengths[s]: (B,) int64,
    the number of real frames, 0 where the clip does not have the stream. K_s is at least 1."""

    values: dict[str, Tensor]
    lengths: dict[str, Tensor]

    def to(self, device: torch.device) -> Batch:
        return Batch({s: v.to(device) for s, v in self.values.items()}, {s: n.to(device) for s, n in self.lengths.items()})


@dataclass(frozen=True)
class Hop:
    """What one hop saw, to be looked at: no gradient flows through it. Rows of a stream that a clip does not have are 0.

    attention[s]: (B, N, K_s), each head's weights over the frames, of sum 1. gates[s]: (B,), mean openness of what gates the
    stream's context, 1 where nothing does. update: (B,), mean of the update gate (eq. 10), 1 without gating. reset: (B,),
    mean of the reset gate, 1 where there is none. dimensions[s]: (B, D), of sum 1, where dimensions are attended to. Of early
    fusion, gates are the one block's and its dimensions are those of "fused".
    """

    attention: dict[str, Tensor]
    gates: dict[str, Tensor]
    update: Tensor
    reset: Tensor
    dimensions: dict[str, Tensor]


@dataclass(frozen=True)
class Output:
    """prediction: (B, C), logits of classes or intensities. hops: one Hop after the other, empty unless asked for, and for an
    architecture that has none."""

    prediction: Tensor
    hops: Sequence[Hop] = field(default=())


class Standardise(nn.Module):
    """(x - mean) / std of each column, with the training clips' statistics; NaN (not observed) becomes the mean, 0."""

    mean: Tensor
    std: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("std", torch.ones(columns))

    def forward(self, x_BKF: Tensor) -> Tensor:
        return torch.nan_to_num((x_BKF - self.mean).div_(self.std), nan=0.0)


class Model(nn.Module, ABC):
    """Any architecture. columns: number of columns of each stream, by its name; outputs: number of classes or intensities."""

    def __init__(self, config: ModelConfig, columns: Mapping[str, int], outputs: int) -> None:
        super().__init__()
        self.config = config
        self.streams = tuple(sorted(columns))
        self.outputs = outputs
        self.standardise = nn.ModuleDict({s: Standardise(columns[s]) for s in self.streams})

    @abstractmethod
    def forward(self, batch: Batch, explain: bool = False) -> Output:
        """explain: also say what each hop saw."""


def _float32_where_lstms_need_it(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast is left where it would hand LSTMs bfloat16 and oneDNN has none for them (on x86 without AVX-512)."""
    asked = device.type == "cpu" and torch.is_autocast_enabled("cpu")
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if asked and there and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.autocast("cpu", enabled=False)
    return contextlib.nullcontext()


class Encoder(nn.Module):
    """Bidirectional LSTM (eqs. 1-3), exact for padded sequences without packing them.

    The backward direction meets a sequence's padding first. One more column says which frames are padding, and its weights
    shut the input, forget and output gates there (their sigmoids are 0): the state is still 0 when the last real frame comes.
    """

    shut: Tensor

    def __init__(self, columns: int, hidden: int, skip: bool = False) -> None:
        super().__init__()
        self.skip = nn.Linear(columns, 2 * hidden, bias=False) if skip else None
        self.gain = nn.Parameter(torch.tensor(SKIP_GAIN)) if skip else None
        self.forward_lstm = nn.LSTM(columns, hidden)
        self.backward_lstm = nn.LSTM(columns, hidden)
        shut = torch.full((4, hidden, 1), -1e4)
        shut[2] = 0.0  # torch's order of gates: input, forget, cell, output
        self.register_buffer("shut", shut.flatten(0, 1), persistent=False)

    def forward(self, x_BKF: Tensor, lengths_B: Tensor) -> Tensor:
        """(B, K, F), (B,) -> (K, B, D), as LSTMs hold it. Rows past a length hold no meaning."""
        padding_BK1 = ~real_frames(lengths_B, x_BKF.shape[1])[..., None]
        x_BKF = x_BKF.masked_fill(padding_BK1, 0.0)
        x_KBF = torch.cat([x_BKF.transpose(0, 1), padding_BK1.transpose(0, 1).to(x_BKF.dtype)], dim=-1)
        weights = []
        for lstm, column in ((self.forward_lstm, torch.zeros_like(self.shut)), (self.backward_lstm, self.shut)):
            w_ih, w_hh, b_ih, b_hh = lstm.parameters()  # in torch's order
            weights += [torch.cat([w_ih, column], dim=1), w_hh, b_ih, b_hh]
        zeros = x_KBF.new_zeros(2, x_KBF.shape[1], self.forward_lstm.hidden_size)
        h_KBD: Tensor
        with _float32_where_lstms_need_it(x_KBF.device):
            h_KBD, _, _ = torch.lstm(x_KBF, (zeros, zeros), weights, True, 1, 0.0, self.training, True, False)
        if self.skip is not None and self.gain is not None:
            h_KBD = torch.addcmul(self.skip(x_KBF[..., :-1]), self.gain, h_KBD)
        return h_KBD


class Deviations(nn.Module):
    """How much each column of a stream varies over a clip, as a linear map: something to add to m(0)."""

    def __init__(self, columns: int, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(columns, dim)

    def forward(self, x_BKF: Tensor, lengths_B: Tensor) -> Tensor:
        """(B, K, F) standardised, (B,) -> (B, D), of the deviation over the real frames; zero where there are none."""
        share_BK = real_frames(lengths_B, x_BKF.shape[1]).to(x_BKF.dtype) / lengths_B.clamp(min=1)[:, None]
        x_BKF = x_BKF.masked_fill(share_BK[..., None] == 0, 0.0)
        mean_B1F = torch.bmm(share_BK[:, None], x_BKF)
        variance_BF = torch.bmm(share_BK[:, None], (x_BKF - mean_B1F).square())[:, 0]
        mapped_BD: Tensor = self.map(variance_BF.clamp(min=1e-12).sqrt())  # the root has no gradient at 0
        return mapped_BD * (lengths_B > 0).to(mapped_BD.dtype)[:, None]


class Attention(nn.Module):
    """Globally contextualised attention of one stream, for all hops (eqs. 5-8)."""

    def __init__(self, dim: int, config: ModelConfig) -> None:
        super().__init__()
        self.multiplicative, self.over_time = config.align == "multiplicative", config.attend == "time"
        self.size = config.align_size or min(dim, max(32, config.hidden // 4))
        n = 1 if config.tied else config.hops
        rows = config.heads if self.over_time else dim
        self.w1 = nn.Linear(dim, n * self.size, bias=False)  # W_s1 of every hop
        self.w2 = nn.ModuleList(nn.Linear(dim, self.size, bias=False) for _ in range(n))  # W_s2
        self.w3 = nn.ParameterList(nn.Parameter(torch.empty(rows, self.size)) for _ in range(n))  # w_s3, or W_s3
        for w3 in self.w3:
            nn.init.uniform_(w3, -(self.size**-0.5), self.size**-0.5)

    def frames(self, h_KBD: Tensor, lengths_B: Tensor) -> Frames:
        return Frames(h_KBD, lengths_B, self.w1.weight, product=self.multiplicative and self.over_time)

    def forward(self, hop: int, frames: Frames, m_BD: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of one hop, given the memory: context (B, D), attention weights (B, N, K), and weights of the dimensions (B, D) if
        it is these that are attended to."""
        i = hop % len(self.w2)
        first, w3_NA = i * self.size, self.w3[i]
        query_BA = self.w2[i](m_BD)
        if self.multiplicative and self.over_time:
            # eqs. 5 and 6: w_s3 (keys * query), without holding the product
            contexts_BND, alpha_BNK = frames.attend(torch.tanh(query_BA)[:, None] * w3_NA, first)
            return _own_parts(contexts_BND), alpha_BNK, None
        keys_BKA = frames.keys_BKA[..., first : first + self.size]
        if self.multiplicative:  # eq. 5
            r_BKA = torch.tanh(keys_BKA) * torch.tanh(query_BA)[:, None]
        else:
            r_BKA = torch.tanh(keys_BKA + query_BA[:, None])
        if self.over_time:
            contexts_BND, alpha_BNK = frames.weigh((r_BKA @ w3_NA.mT).mT)
            return _own_parts(contexts_BND), alpha_BNK, None
        # The network transposed: a score for each dimension, from R averaged over the frames, since their number varies.
        # Equal weights leave the stream's average as it is.
        scores_BD = torch.bmm(frames.share_BK[:, None], r_BKA)[:, 0] @ w3_NA.mT
        weights_BD = torch.softmax(scores_BD, dim=-1)
        return weights_BD.shape[-1] * weights_BD * frames.average(), frames.share_BK[:, None], weights_BD


def _own_parts(contexts_BND: Tensor) -> Tensor:
    """(B, N, D) -> (B, D): of each head's context the head's own part of the dimensions, side by side."""
    clips, heads, dim = contexts_BND.shape
    if heads == 1:
        return contexts_BND[:, 0]
    parts = contexts_BND.view(clips, heads, heads, dim // heads)
    return parts.diagonal(dim1=1, dim2=2).mT.reshape(clips, dim)


class _Affine(nn.Module):
    """W_m m + W_w w + b."""

    def __init__(self, memory: int, wide: int, out: int) -> None:
        super().__init__()
        self.of_memory = nn.Linear(memory, out)
        self.of_contexts = nn.Linear(wide, out, bias=False)

    def forward(self, m: Tensor, w: Tensor) -> Tensor:
        out: Tensor = self.of_memory(m) + self.of_contexts(w)
        return out


class MemoryUpdate(nn.Module):
    """The shared memory's update from the streams' contexts w (eqs. 9-13)."""

    def __init__(self, dim: int, streams: Sequence[str], config: ModelConfig) -> None:
        super().__init__()
        wide = len(streams) * dim
        self.gate, self.reset = config.gate, config.reset
        if self.gate in ("joint", "both"):
            self.gate_w = _Affine(dim, wide, wide)  # W_wm, W_ww, b_w
        if self.gate in ("per_modality", "both"):
            self.gate_s = nn.ModuleDict({s: _Affine(dim, dim, dim) for s in streams})  # W_sm, W_ss, b_s
        if self.gate != "none":
            self.gate_c = _Affine(dim, wide, dim)  # W_cm, W_cw, b_c
            self.update = _Affine(dim, wide, dim)  # W_um, W_uw, b_u
        if self.reset:
            self.gate_r = _Affine(dim, wide, dim)

    def forward(self, m_BD: Tensor, w_BSD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The next memory (B, D); and how open what gates the contexts (B, S, D), the memory's update (B, D) and its reset
        (B, D) were."""
        g_BSD, g_r = torch.ones_like(w_BSD), torch.ones_like(m_BD)
        if self.gate == "none":  # GCA without gating: the memory adds up the contexts
            return m_BD + w_BSD.sum(1), g_BSD, g_r, g_r
        w = w_BSD.flatten(1)
        if self.gate in ("joint", "both"):
            g_BSD = torch.sigmoid(self.gate_w(m_BD, w)).view_as(w_BSD)  # eq. 9
        if self.gate in ("per_modality", "both"):
            of_s = [gate(m_BD, w_BSD[:, i]) for i, gate in enumerate(self.gate_s.values())]
            g_BSD = g_BSD * torch.sigmoid(torch.stack(of_s, dim=1))  # eq. 11
        if self.reset:
            g_r = torch.sigmoid(self.gate_r(m_BD, w))  # sec. 3.5
        g_c = torch.sigmoid(self.gate_c(m_BD, w))  # eq. 10
        u_BD = torch.tanh(self.update(g_r * m_BD, (g_BSD * w_BSD).flatten(1)))  # eq. 12
        return (1 - g_c) * m_BD + g_c * u_BD, g_BSD, g_c, g_r  # eq. 13


class Recursion(nn.Module):
    """The hops: attention to each stream in the light of the memory, then the memory's update."""

    def __init__(self, streams: Sequence[str], dim: int, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.streams = config, tuple(streams)
        self.attention = nn.ModuleDict({s: Attention(dim, config) for s in self.streams})
        self.memory = MemoryUpdate(dim, self.streams, config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, h: Mapping[str, Tensor], lengths: Mapping[str, Tensor], explain: bool, more_BD: Tensor | None = None
    ) -> tuple[Tensor, list[Hop]]:
        """Of encoder outputs h[s] (K, B, D): the last memory (B, D), and what each hop saw, if asked. more: added to m(0)."""
        attention = {s: cast(Attention, self.attention[s]) for s in self.streams}
        frames = {s: attention[s].frames(h[s], lengths[s]) for s in self.streams}
        # Dropout of the encoders' outputs, one mask a clip for all frames and hops (Gal and Ghahramani 2016), put where it
        # costs D numbers and not K * D: on their averages. The alignment sees them whole.
        keep_BSD = self.dropout(torch.stack([torch.ones_like(h[s][0]) for s in self.streams], dim=1))
        m_BD = torch.zeros_like(keep_BSD[:, 0])
        if self.config.memory == "mean":  # m(0): the averages over the real frames, summed over the streams
            m_BD = (torch.stack([frames[s].average() for s in self.streams], dim=1) * keep_BSD).sum(1)
        if more_BD is not None:
            m_BD = m_BD + self.dropout(more_BD)
        hops = []
        for tau in range(self.config.hops):
            seen = {s: attention[s](tau, frames[s], m_BD) for s in self.streams}
            w_BSD = torch.stack([context_BD for context_BD, _, _ in seen.values()], dim=1) * keep_BSD
            m_BD, g_BSD, update_BD, reset_BD = self.memory(m_BD, w_BSD)
            if explain:
                here = {s: (lengths[s] > 0).to(m_BD.dtype) for s in self.streams}
                hops.append(
                    Hop(
                        attention={s: alpha.detach() for s, (_, alpha, _) in seen.items()},
                        gates={s: g_BSD[:, i].detach().mean(-1) * here[s] for i, s in enumerate(self.streams)},
                        update=update_BD.detach().mean(-1),
                        reset=reset_BD.detach().mean(-1),
                        dimensions={s: d.detach() * here[s][:, None] for s, (_, _, d) in seen.items() if d is not None},
                    )
                )
        return m_BD, hops


class Decoder(nn.Module):
    """A fully connected layer, then the outputs (secs. 3.4 and 4)."""

    def __init__(self, dim: int, config: ModelConfig, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, config.hidden), nn.ReLU(), nn.Dropout(config.dropout))
        self.output = nn.Linear(config.hidden, outputs)

    def forward(self, m_BD: Tensor) -> Tensor:
        out: Tensor = self.output(self.layers(m_BD))
        return out


class _Encoded(Model):
    """What the paper's architectures share: an encoder a stream."""

    def __init__(self, config: ModelConfig, columns: Mapping[str, int], outputs: int) -> None:
        super().__init__(config, columns, outputs)
        self.dim = 2 * config.hidden
        self.encoders = nn.ModuleDict({s: Encoder(columns[s], config.hidden, config.skip) for s in self.streams})
        self.deviations = nn.ModuleDict({s: Deviations(columns[s], self.dim) for s in self.streams if config.deviations})

    def encode(self, batch: Batch) -> tuple[dict[str, Tensor], list[Tensor]]:
        """H of each stream, (K, B, D); and what its deviations add to m(0), (B, D), where they are asked for."""
        x = {s: self.standardise[s](batch.values[s]) for s in self.streams}
        h = {s: self.encoders[s](x[s], batch.lengths[s]) for s in self.streams}
        return h, [of_s(x[s], batch.lengths[s]) for s, of_s in self.deviations.items()]


class RRNN(_Encoded):
    """The paper's model (sec. 3)."""

    def __init__(self, config: ModelConfig, columns: Mapping[str, int], outputs: int) -> None:
        super().__init__(config, columns, outputs)
        self.recursion = Recursion(self.streams, self.dim, config)
        self.decoder = Decoder(self.dim, config, outputs)

    def forward(self, batch: Batch, explain: bool = False) -> Output:
        h, deviations = self.encode(batch)
        more_BD = torch.stack(deviations).sum(0) if deviations else None
        m_BD, hops = self.recursion(h, batch.lengths, explain, more_BD)
        return Output(self.decoder(m_BD), hops)


class EarlyFusion(_Encoded):
    """Early fusion (sec. 4): each clip's encoder outputs are resampled to its fastest stream, by repetition, and concatenated;
    the parallel blocks become one, of S * D dimensions."""

    def __init__(self, config: ModelConfig, columns: Mapping[str, int], outputs: int) -> None:
        super().__init__(config, columns, outputs)
        self.recursion = Recursion(("fused",), len(self.streams) * self.dim, config)
        self.decoder = Decoder(len(self.streams) * self.dim, config, outputs)

    def forward(self, batch: Batch, explain: bool = False) -> Output:
        (h, deviations), lengths = self.encode(batch), batch.lengths
        more_BD = torch.cat(deviations, -1) if deviations else None
        longest_B = torch.stack([lengths[s] for s in self.streams]).amax(0)
        j_K1 = torch.arange(max(h[s].shape[0] for s in self.streams), device=longest_B.device)[:, None]
        b_B = torch.arange(longest_B.shape[0], device=longest_B.device)
        nearest, fused = {}, []
        for s in self.streams:  # the frame of s that is nearest to the middle of frame j of the fastest: floor((j + 1/2) n / K)
            here_KB = (2 * j_K1 + 1) * lengths[s] // (2 * longest_B.clamp(min=1))
            nearest[s] = here_KB.minimum(lengths[s] - 1).clamp(min=0)
            rows = (nearest[s] * b_B.shape[0] + b_B).flatten()
            resampled_KBD = h[s].flatten(0, 1).index_select(0, rows).view(*nearest[s].shape, -1)
            fused.append(resampled_KBD * (lengths[s] > 0).to(resampled_KBD.dtype)[:, None])
        m, hops = self.recursion({"fused": torch.cat(fused, -1)}, {"fused": longest_B}, explain, more_BD)
        return Output(self.decoder(m), [self._per_stream(hop, nearest, batch) for hop in hops])

    def _per_stream(self, hop: Hop, nearest: Mapping[str, Tensor], batch: Batch) -> Hop:
        """The one block's weights added up on the frames that stood in for each of its own."""
        attention, gates, alpha_BNK = {}, {}, hop.attention["fused"]
        for s in self.streams:
            frames_BNK = nearest[s].mT[:, None].expand_as(alpha_BNK)
            zeros = alpha_BNK.new_zeros(*alpha_BNK.shape[:2], batch.values[s].shape[1])
            here = (batch.lengths[s] > 0).to(alpha_BNK.dtype)
            attention[s] = zeros.scatter_add(-1, frames_BNK, alpha_BNK) * here[:, None, None]
            gates[s] = hop.gates["fused"] * here
        return Hop(attention, gates, hop.update, hop.reset, hop.dimensions)


class LateFusion(_Encoded):
    """Late fusion (sec. 4): each stream's last encoder outputs, a decoder each, and a weighted mean of their predictions, over
    the streams that a clip has. With one stream it is the unimodal LSTM of tables 1-3."""

    def __init__(self, config: ModelConfig, columns: Mapping[str, int], outputs: int) -> None:
        super().__init__(config, columns, outputs)
        self.decoders = nn.ModuleDict({s: Decoder(self.dim, config, outputs) for s in self.streams})
        self.dropout = nn.Dropout(config.dropout)
        self.weights = nn.Parameter(torch.zeros(len(self.streams)))  # their softmax weighs the streams

    def forward(self, batch: Batch, explain: bool = False) -> Output:
        predictions, here = [], torch.stack([batch.lengths[s] > 0 for s in self.streams], dim=1)
        h, _ = self.encode(batch)
        for s, h_KBD in h.items():
            forward_KBH, backward_KBH = h_KBD.chunk(2, dim=-1)
            last = (batch.lengths[s] - 1).clamp(min=0)
            final_BD = torch.cat([forward_KBH[last, torch.arange(last.shape[0], device=last.device)], backward_KBH[0]], dim=-1)
            predictions.append(self.decoders[s](self.dropout(final_BD)))
        weights_BS = torch.softmax(self.weights.expand_as(here).masked_fill(~here, MASKED), dim=-1) * here
        return Output((weights_BS[..., None] * torch.stack(predictions, dim=1)).sum(1))


class Naive(Model):
    """The paper's naive baseline (sec. 4): one parameter an output, and no look at the clip."""

    def __init__(self, config: ModelConfig, columns: Mapping[str, int], outputs: int) -> None:
        super().__init__(config, columns, outputs)
        self.constant = nn.Parameter(torch.zeros(outputs))

    def forward(self, batch: Batch, explain: bool = False) -> Output:
        clips = next(iter(batch.lengths.values())).shape[0]
        return Output(self.constant.repeat(clips, 1))
