"""Two strong models of the literature, written from their papers, to compare the RRNN with on the same data, in the same loop.

Axes, as suffixes of names: B clips, K frames of a stream, J frames of the stream attended to, F columns, S streams, H hidden,
G = 4 * H (an LSTM's gates), T steps of aligned streams, W = 2 * S * H (what the memory fusion network sees of two steps), E
width of a transformer, C classes (or intensities).

Streams are keys of a dict, any number of them. As in the RRNN, a stream that a clip does not have has length 0 there and adds
exactly zero, and nothing a clip's output depends on lies outside its own real frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from rrnn.config import ModelConfig
from rrnn.frames import MASKED, real_frames
from rrnn.model import Batch, Model, Output

STEPS = 50  # at most, of aligned streams: the length of the word-aligned sequences of the published experiments


def masked_frames(batch: Batch, stream: str, standardise: nn.Module) -> tuple[Tensor, Tensor]:
    """Standardised frames (B, K, F), zero where padded, so that no convolution sees padding; and which are real, (B, K)."""
    x_BKF = batch.values[stream]
    mask_BK = real_frames(batch.lengths[stream], x_BKF.shape[1])
    frames_BKF: Tensor = standardise(x_BKF)
    return frames_BKF.masked_fill(~mask_BK[..., None], 0.0), mask_BK


def align(x_BKF: Tensor, lengths_B: Tensor, steps_B: Tensor, steps: int) -> Tensor:
    """(B, K, F) -> (B, steps, F): each clip's frames cut into steps_B parts as equal as whole frames allow, each part averaged;
    a clip with fewer frames than steps repeats them. Steps past steps_B hold no meaning."""
    k_K, t_T = torch.arange(x_BKF.shape[1], device=x_BKF.device), torch.arange(steps, device=x_BKF.device)
    first_BT = t_T * lengths_B[:, None] // steps_B[:, None]
    end_BT = torch.maximum((t_T + 1) * lengths_B[:, None] // steps_B[:, None], first_BT + 1)
    in_step_BTK = (k_K >= first_BT[..., None]) & (k_K < end_BT[..., None])
    return torch.bmm(in_step_BTK.to(x_BKF.dtype) / (end_BT - first_BT)[..., None], x_BKF)


class MemoryFusionNetwork(Model):
    """The memory fusion network (MFN) of Zadeh et al., "Memory Fusion Network for Multi-view Sequential Learning", AAAI 2018.

    An LSTM a stream; attention over all their cells at two steps at once; a gated memory that it is written to; the output
    from the LSTMs' last hidden states and the memory. Chosen where the paper leaves it open or the authors' code differs:

    - Its streams are aligned by word. Here each clip's are aligned by time, to as many steps as its longest has frames, at
      most 50: see align.
    - The gates are functions of the attended cells, as in the paper; the authors' code gives them the memory as well. As
      nothing then flows from the memory back, the four networks see all steps at once.
    - A network is two layers with ReLU and dropout between. `hidden` is the size of each LSTM, of the memory and of each
      network's inner layer; the authors search over these one by one.
    - Cells of an absent stream take no part in the softmax.
    """

    def __init__(self, config: ModelConfig, columns: Mapping[str, int], outputs: int) -> None:
        super().__init__(config, columns, outputs)
        hidden, window = config.hidden, 2 * len(columns) * config.hidden

        def network(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(hidden, outputs))

        self.lstms = nn.ModuleDict({s: nn.LSTMCell(columns[s], hidden) for s in self.streams})
        self.attention = network(window, window)  # D_a
        self.proposal = network(window, hidden)  # D_u
        self.retain = network(window, hidden)  # D_gamma1
        self.update = network(window, hidden)  # D_gamma2
        self.output = network((len(columns) + 1) * hidden, outputs)

    def forward(self, batch: Batch, explain: bool = False) -> Output:
        lengths_BS = torch.stack([batch.lengths[s] for s in self.streams], dim=1)
        steps_B = lengths_BS.amax(1).clamp(1, STEPS)
        steps = min(STEPS, max(batch.values[s].shape[1] for s in self.streams))
        c_BTSH, h_BSH = self._lstms(batch, steps_B, steps)

        present_BS1 = (lengths_BS > 0)[..., None]
        c_BTSH = c_BTSH * present_BS1[:, None]
        before_BTSH = torch.cat([torch.zeros_like(c_BTSH[:, :1]), c_BTSH[:, :-1]], dim=1)
        c_BTW = torch.cat([before_BTSH.flatten(2), c_BTSH.flatten(2)], dim=-1)  # c at [t - 1, t]
        absent_BW = ~present_BS1.expand_as(h_BSH).flatten(1).repeat(1, 2)
        attended_BTW = torch.softmax(self.attention(c_BTW).masked_fill(absent_BW[:, None], MASKED), dim=-1) * c_BTW

        # The memory of a clip that is over stays as it is: all is retained, nothing added.
        over_BT1 = (torch.arange(steps, device=steps_B.device) >= steps_B[:, None])[..., None]
        retain_BTH = torch.sigmoid(self.retain(attended_BTW)).masked_fill(over_BT1, 1.0)
        added_BTH = torch.sigmoid(self.update(attended_BTW)) * torch.tanh(self.proposal(attended_BTW))
        u_BH = torch.zeros_like(h_BSH[:, 0])
        for retain_BH, added_BH in zip(retain_BTH.unbind(1), added_BTH.masked_fill(over_BT1, 0.0).unbind(1), strict=True):
            u_BH = retain_BH * u_BH + added_BH
        return Output(self.output(torch.cat([(h_BSH * present_BS1).flatten(1), u_BH], dim=-1)))

    def _lstms(self, batch: Batch, steps_B: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """All streams' LSTMs side by side, as one batched product a step: every cell, (B, T, S, H), and each clip's last
        hidden states, (B, S, H)."""
        cells = [cast(nn.LSTMCell, self.lstms[s]) for s in self.streams]
        inputs = []
        for s, cell in zip(self.streams, cells, strict=True):
            x_BKF, _ = masked_frames(batch, s, self.standardise[s])
            x_BTF = align(x_BKF, batch.lengths[s], steps_B, steps)
            inputs.append(linear(x_BTF, cell.weight_ih, cell.bias_ih + cell.bias_hh).transpose(0, 1))
        recurrent_SHG = torch.stack([cell.weight_hh.T for cell in cells])
        x_TSBG = torch.stack(inputs, dim=1)
        h_SBH = c_SBH = x_TSBG.new_zeros(len(cells), len(steps_B), self.config.hidden)
        h, c = [], []
        for x_SBG in x_TSBG.unbind(0):
            i, f, g, o = torch.baddbmm(x_SBG, h_SBH, recurrent_SHG).chunk(4, dim=-1)
            c_SBH = torch.sigmoid(f) * c_SBH + torch.sigmoid(i) * torch.tanh(g)
            h_SBH = torch.sigmoid(o) * torch.tanh(c_SBH)
            h.append(h_SBH)
            c.append(c_SBH)
        last_BSH = torch.stack(h)[steps_B - 1, :, torch.arange(len(steps_B), device=steps_B.device)]
        return torch.stack(c).permute(2, 0, 1, 3), last_BSH


def positions(frames: int, like: Tensor) -> Tensor:
    """Sinusoidal positions (K, E) of Vaswani et al. 2017, of like's width, type and device: sine in the even columns, cosine in
    the odd ones."""
    width, exact = like.shape[-1], torch.promote_types(like.dtype, torch.float32)  # half precision can't tell late frames apart
    column_E = torch.arange(width, device=like.device)
    rate_E = torch.pow(1e4, -(column_E // 2 * 2).to(exact) / width)
    angle_KE = torch.arange(frames, device=like.device, dtype=exact)[:, None] * rate_E
    return torch.where(column_E % 2 == 0, torch.sin(angle_KE), torch.cos(angle_KE)).to(like.dtype)


class TransformerLayer(nn.Module):
    """Attention to a source's real frames, then a feed-forward network; each of a normed input, added to what was there."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attend_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.join = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BKE: Tensor, source_BJE: Tensor | None, mask_BJ: Tensor) -> Tensor:
        """(B, K, E), (B, J, E), (B, J) -> (B, K, E). Without a source, x itself is it. A source without a real frame adds
        nothing."""
        query_BKE = self.attend_norm(x_BKE)
        key_BJE = query_BKE if source_BJE is None else self.attend_norm(source_BJE)
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in (self.query(query_BKE), *self.key_value(key_BJE).chunk(2, dim=-1))
        )
        # A softmax over no keys is NaN, or whatever a kernel makes of it: an absent source shows its first frame, and what was
        # read is then taken back. The first frame is real where any is.
        present_B1 = mask_BJ[:, :1]
        seen_BJ = mask_BJ | (torch.arange(mask_BJ.shape[1], device=mask_BJ.device) == 0)
        read_BKE = scaled_dot_product_attention(q, k, v, attn_mask=seen_BJ[:, None, None]).transpose(1, 2).flatten(2)
        x_BKE = x_BKE + self.dropout(self.join(read_BKE)) * present_B1[..., None]
        return x_BKE + cast(Tensor, self.dropout(self.feed(self.feed_norm(x_BKE))))


class Transformer(nn.Module):
    """Layers that all read the same source, or, without one, each the layer before; and a last norm."""

    def __init__(self, width: int, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(width, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BKE: Tensor, source_BJE: Tensor | None, mask_BJ: Tensor) -> Tensor:
        """(B, K, E), (B, J, E), (B, J) -> (B, K, E)."""
        for layer in self.layers:
            x_BKE = layer(x_BKE, source_BJE, mask_BJ)
        return cast(Tensor, self.norm(x_BKE))


class MultimodalTransformer(Model):
    """The multimodal transformer (MulT) of Tsai et al., "Multimodal Transformer for Unaligned Multimodal Language Sequences",
    ACL 2019.

    Each stream through a temporal convolution, with positions added; each stream enriched by each other one, in a crossmodal
    transformer of the pair; these side by side through a transformer a stream; the output from each one's last frame. A lone
    stream goes straight to the latter. Chosen where the paper leaves it open or the authors' code differs:

    - The paper adds a layer's input back after its norm, the code before it. Here before it, with a last norm, as in the code.
    - The code lets frame i see only what is not later; the paper does not say so, and neither is it done here. The code scales
      the convolved frames by the root of their width and adds positions again before the last transformers: the paper
      does neither.
    - The convolution has kernel 3 and keeps the length, so that a clip of a single frame has an output.
    - Every transformer has the same number of layers; the code's last ones have at least 3.
    - Dropout, of one rate, is of the frames with positions, of what each half of a layer adds, and in the last block; not of
      attention weights, which would keep them from being fused.
    - An absent source adds nothing in its crossmodal transformer, whose feed-forward networks still see the target's frames;
      so a clip with one stream of many has an output that depends on it. An absent target is a zero vector at the last block.
    """

    def __init__(self, config: ModelConfig, columns: Mapping[str, int], outputs: int) -> None:
        super().__init__(config, columns, outputs)
        width = config.hidden * max(1, len(columns) - 1)
        wide = width * len(columns)
        self.convolutions = nn.ModuleDict(
            {s: nn.Conv1d(columns[s], config.hidden, kernel_size=3, padding=1, bias=False) for s in self.streams}
        )
        self.crossmodal = nn.ModuleDict(  # by target, then source
            {t: nn.ModuleDict({s: Transformer(config.hidden, config) for s in self.streams if s != t}) for t in self.streams}
        )
        self.temporal = nn.ModuleDict({s: Transformer(width, config) for s in self.streams})
        self.dropout = nn.Dropout(config.dropout)
        self.block = nn.Sequential(nn.Linear(wide, wide), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(wide, wide))
        self.output = nn.Linear(wide, outputs)

    def forward(self, batch: Batch, explain: bool = False) -> Output:
        z, mask = {}, {}
        for s in self.streams:
            x_BKF, mask[s] = masked_frames(batch, s, self.standardise[s])
            convolved_BKH = self.convolutions[s](x_BKF.mT).mT
            z[s] = self.dropout(convolved_BKH + positions(x_BKF.shape[1], convolved_BKH))
        last = []
        for t in self.streams:
            sources = cast(nn.ModuleDict, self.crossmodal[t]).items()
            enriched = [crossmodal(z[t], z[s], mask[s]) for s, crossmodal in sources] or [z[t]]
            h_BKE = self.temporal[t](torch.cat(enriched, dim=-1), None, mask[t])
            lengths_B = batch.lengths[t]
            rows_B = torch.arange(lengths_B.shape[0], device=lengths_B.device)
            last.append(h_BKE[rows_B, (lengths_B - 1).clamp(min=0)] * (lengths_B > 0)[:, None])
        last_BE = torch.cat(last, dim=-1)
        return Output(self.output(last_BE + self.block(last_BE)))
