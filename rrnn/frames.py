"""A stream's encoded frames, looked at again in every hop, and the gradient of all hops' looks at once.

What eqs. 5-8 do to H is linear algebra over (clips, frames, 256) a hop: on the CPU its cost is memory traffic, and most of it
is in the gradient, where autograd writes one outer product of H's size for each hop and adds them up. Here the hops only
leave behind what those products are made of, and the last node of the backward pass makes them all in one product. The
values are those of the plain formulas, which all else uses (inference, export, CUDA, other variants), and tests compare
both.

Axes as in rrnn.model; T is the number of looks, A the alignment space of all hops with weights of their own, side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

MASKED = -1e30  # a score that no softmax gives weight, and no subtraction turns into NaN; too large for float16


def real_frames(lengths_B: Tensor, frames: int) -> Tensor:
    """(B, K) bool, True where a frame is real and not padding."""
    return torch.arange(frames, device=lengths_B.device) < lengths_B[:, None]


class Frames:
    """One stream's frames in one forward pass.

    h_KBD: encoder outputs, finite everywhere; rows past a length hold no meaning. lengths_B: (B,) int64. w1_AD: W_s1 of every
    hop, one below the other. W_s1 H does not depend on the memory: it is one product, before the first hop. Frames stay in
    memory as LSTMs leave them, all clips' first ones first; names with B before K are views of that.

    share_BK: what each real frame adds to the average. keys_BKA: if `product`, sigmoid(2 W_s1 H), which stands in for the
    tanh(W_s1 H) of eq. 5; else W_s1 H, to be joined with the memory by whoever asks.

    tanh(x) = 2 sigmoid(2 x) - 1, and a softmax does not mind what is added to all its scores: q . tanh(x) and
    2 q . sigmoid(2 x) attend alike. On the CPU a sigmoid costs a sixth of a tanh.
    """

    def __init__(self, h_KBD: Tensor, lengths_B: Tensor, w1_AD: Tensor, product: bool) -> None:
        self.h_BKD = h_KBD.transpose(0, 1)
        self.mask_BK = real_frames(lengths_B, h_KBD.shape[0])
        self.share_BK = self.mask_BK.to(h_KBD.dtype) / lengths_B.clamp(min=1)[:, None]
        self._looks: _Looks | None = None
        on_cpu = h_KBD.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if not product:
            keys_KBA = F.linear(h_KBD, w1_AD)
        elif on_cpu and torch.is_grad_enabled() and not torch.compiler.is_exporting():
            self._looks = _Looks()
            keys_KBA, self._token = _Project.apply(h_KBD, w1_AD, self._looks)  # type: ignore[no-untyped-call]
        else:
            keys_KBA = F.linear(h_KBD, 2 * w1_AD).sigmoid_()
        self.keys_BKA = keys_KBA.transpose(0, 1)

    def average(self) -> Tensor:
        """(B, D), over the real frames; zero where there are none."""
        if self._looks is not None:
            context: Tensor = _Average.apply(self._token, self.h_BKD, self.share_BK, self._looks)  # type: ignore[no-untyped-call]
            return context
        return torch.bmm(self.share_BK[:, None], self.h_BKD)[:, 0]

    def attend(self, query_BNA: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Contexts (B, N, D) and attention weights (B, N, K) of queries w_s3 * tanh(W_s2 m): eqs. 6-8, with the keys from
        column `first` on."""
        query_BNA = 2 * query_BNA
        if self._looks is not None:
            contexts_BND, alpha_BNK = _Attend.apply(  # type: ignore[no-untyped-call]
                self._token, query_BNA, self.h_BKD, self.keys_BKA, self.mask_BK, first, self._looks
            )
            return contexts_BND, alpha_BNK
        keys_BKA = self.keys_BKA[..., first : first + query_BNA.shape[-1]]
        return self.weigh(torch.bmm(query_BNA, keys_BKA.mT))

    def weigh(self, scores_BNK: Tensor) -> tuple[Tensor, Tensor]:
        """Contexts and attention weights of scores: the softmax over the real frames (eq. 7) and what it weighs (eq. 8)."""
        alpha_BNK = _softmax(scores_BNK, self.mask_BK)
        return torch.bmm(alpha_BNK, self.h_BKD), alpha_BNK


def _softmax(scores_BNK: Tensor, mask_BK: Tensor) -> Tensor:
    return torch.softmax(scores_BNK.masked_fill(~mask_BK[:, None], MASKED), dim=-1) * mask_BK[:, None]


@dataclass
class _Looks:
    """What the backward pass of each look leaves for the last node: weights (B, N, K) and gradient (B, N, D) of its contexts;
    and, where it had scores, their gradient (B, N, K), the query (B, N, A) and its first column."""

    weights: list[Tensor] = field(default_factory=list)
    contexts: list[Tensor] = field(default_factory=list)
    scores: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)
    task: int = -1

    def of_this_pass(self) -> _Looks:
        """Empty at the start of a backward pass: an earlier one, by a part of the graph, may not have come to the last node."""
        task = torch._C._current_graph_task_id()
        if task != self.task:
            self.weights.clear()
            self.contexts.clear()
            self.scores.clear()
            self.task = task
        return self


class _Project(Function):
    """Keys, and a token that every look depends on: its gradient is asked for last, when all looks have had theirs."""

    @staticmethod
    def forward(ctx: Any, h_KBD: Tensor, w1_AD: Tensor, looks: _Looks) -> tuple[Tensor, Tensor]:
        keys_KBA = F.linear(h_KBD, 2 * w1_AD).sigmoid_()
        ctx.save_for_backward(h_KBD, w1_AD, keys_KBA)
        ctx.looks = looks
        ctx.mark_non_differentiable(keys_KBA)
        ctx.set_materialize_grads(False)
        return keys_KBA, h_KBD.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _keys: None, _token: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        h_KBD, w1_AD, keys_KBA = ctx.saved_tensors
        looks: _Looks = ctx.looks.of_this_pass()
        if not looks.weights:
            return None, None, None
        dh_KBD, dw1_AD = torch.empty_like(h_KBD), None
        torch.bmm(torch.cat(looks.weights, 1).mT, torch.cat(looks.contexts, 1), out=dh_KBD.transpose(0, 1))
        if looks.scores:
            # The queries in the columns of their own keys and zero elsewhere: all hops' outer products are one product.
            placed = []
            for _, query_BNA, first in looks.scores:
                wide = query_BNA.new_zeros(*query_BNA.shape[:2], len(w1_AD))
                wide[..., first : first + query_BNA.shape[-1]] = 2 * query_BNA  # d sigmoid(2 x) is twice d sigmoid at 2 x
                placed.append(wide)
            d_KBA = torch.empty_like(keys_KBA)
            torch.bmm(torch.cat([d for d, _, _ in looks.scores], 1).mT, torch.cat(placed, 1), out=d_KBA.transpose(0, 1))
            torch.ops.aten.sigmoid_backward.grad_input(d_KBA, keys_KBA, grad_input=d_KBA)
            dh_KBD.flatten(0, 1).addmm_(d_KBA.flatten(0, 1), w1_AD)
            dw1_AD = torch.mm(d_KBA.flatten(0, 1).mT, h_KBD.flatten(0, 1))
        looks.weights.clear()  # the graph may be differentiated again
        looks.contexts.clear()
        looks.scores.clear()
        return dh_KBD, dw1_AD, None


class _Average(Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, h_BKD: Tensor, share_BK: Tensor, looks: _Looks) -> Tensor:
        ctx.save_for_backward(share_BK)
        ctx.looks = looks
        return torch.bmm(share_BK[:, None], h_BKD)[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dcontext_BD: Tensor) -> tuple[Tensor, None, None, None]:
        (share_BK,) = ctx.saved_tensors
        looks = ctx.looks.of_this_pass()
        looks.weights.append(share_BK[:, None])
        looks.contexts.append(dcontext_BD[:, None])
        return dcontext_BD.new_zeros(()), None, None, None


class _Attend(Function):
    @staticmethod
    def forward(
        ctx: Any, token: Tensor, query_BNA: Tensor, h_BKD: Tensor, keys_BKA: Tensor, mask_BK: Tensor, first: int, looks: _Looks
    ) -> tuple[Tensor, Tensor]:
        scores_BNK = torch.bmm(query_BNA, keys_BKA[..., first : first + query_BNA.shape[-1]].mT)
        alpha_BNK = _softmax(scores_BNK, mask_BK)
        ctx.save_for_backward(query_BNA, h_BKD, keys_BKA, alpha_BNK)
        ctx.first, ctx.looks = first, looks
        ctx.mark_non_differentiable(alpha_BNK)
        ctx.set_materialize_grads(False)
        return torch.bmm(alpha_BNK, h_BKD), alpha_BNK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dcontexts_BND: Tensor, _alpha: None) -> tuple[Tensor | None, ...]:
        if dcontexts_BND is None:
            return (None,) * 7
        query_BNA, h_BKD, keys_BKA, alpha_BNK = ctx.saved_tensors
        looks: _Looks = ctx.looks.of_this_pass()
        dalpha_BNK = torch.bmm(dcontexts_BND, h_BKD.mT)
        dscores_BNK = alpha_BNK * (dalpha_BNK - (alpha_BNK * dalpha_BNK).sum(-1, keepdim=True))
        looks.weights.append(alpha_BNK)
        looks.contexts.append(dcontexts_BND)
        looks.scores.append((dscores_BNK, query_BNA.detach(), ctx.first))  # its history holds this node, and that looks
        keys = keys_BKA[..., ctx.first : ctx.first + query_BNA.shape[-1]]
        return dscores_BNK.new_zeros(()), torch.bmm(dscores_BNK, keys), None, None, None, None, None
