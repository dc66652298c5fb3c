"""The paper's equations for one clip, in float64 NumPy, frame by frame: an independent transcription to compare with.

No batches, padding or masks. A clip is a dict of (K, F) sequences; streams that it lacks are absent and add nothing. Names
are the paper's: s a stream, k a frame, tau a hop, h encoder outputs, c a context, w all contexts, m memory, g gates, u the
proposed update. Weights are a state_dict's, by name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rrnn.config import ModelConfig

Array = np.ndarray
Weights = dict[str, Array]
Clip = dict[str, Array]


@dataclass(frozen=True)
class Seen:
    """What one hop saw: by stream, (N, K) weights of the frames, a gate's mean, and (D,) weights of the dimensions; and the
    means of the update and the reset gate."""

    attention: dict[str, Array]
    gates: dict[str, float]
    update: float
    reset: float
    dimensions: dict[str, Array]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max())
    return e / e.sum()


def lstm(x: Array, w: Weights, name: str) -> Array:
    """Hochreiter and Schmidhuber's cell as torch lays it out (gates i, f, g, o), over x (K, F): (K, H)."""
    w_ih, w_hh = w[f"{name}.weight_ih_l0"], w[f"{name}.weight_hh_l0"]
    bias = w[f"{name}.bias_ih_l0"] + w[f"{name}.bias_hh_l0"]
    h = c = np.zeros(w_hh.shape[1])
    out = []
    for frame in x:
        i, f, g, o = np.split(w_ih @ frame + w_hh @ h + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.array(out)


def standardised(clip: Clip, w: Weights, streams: list[str]) -> dict[str, Array]:
    """x_s (K_s, F) of the streams that the clip has."""
    x = {s: (clip[s].astype(np.float64) - w[f"standardise.{s}.mean"]) / w[f"standardise.{s}.std"] for s in streams if s in clip}
    return {s: np.where(np.isnan(x_s), 0.0, x_s) for s, x_s in x.items() if len(x_s)}  # not observed: taken for the mean


def varying(x: Array, w: Weights, s: str) -> Array:
    """Not the paper's: a linear map of each column's deviation over time (D,)."""
    deviation = np.maximum(x.std(axis=0), 1e-6)
    return w[f"deviations.{s}.map.weight"] @ deviation + w[f"deviations.{s}.map.bias"]


def encode(clip: Clip, w: Weights, streams: list[str]) -> dict[str, Array]:
    """h_s (K_s, D) of the streams that the clip has."""
    h = {}
    for s, x in standardised(clip, w, streams).items():
        forward = lstm(x, w, f"encoders.{s}.forward_lstm")  # eq. 1
        backward = lstm(x[::-1], w, f"encoders.{s}.backward_lstm")[::-1]  # eq. 2
        h[s] = np.concatenate([forward, backward], axis=1)  # eq. 3
        if f"encoders.{s}.gain" in w:  # not the paper's: a linear path beside the LSTMs
            h[s] = x @ w[f"encoders.{s}.skip.weight"].T + w[f"encoders.{s}.gain"] * h[s]
    return h


def attend(h: Array, m: Array, w1: Array, w2: Array, w3: Array, config: ModelConfig) -> tuple[Array, Array, Array | None]:
    """Of one stream: c_s (D,), weights of the frames (N, K), and weights of the dimensions (D,) if these are attended to."""
    frames, dim = h.shape
    average = sum(h) / frames
    r = []
    for k in range(frames):
        if config.align == "multiplicative":
            r.append(np.tanh(w1 @ h[k]) * np.tanh(w2 @ m))  # eq. 5
        else:
            r.append(np.tanh(w1 @ h[k] + w2 @ m))  # after Bahdanau et al.
    if config.attend == "dimensions":  # sec. 3.2: attention scales each dimension instead of each step
        weights = softmax(w3 @ (sum(r) / frames))
        return dim * weights * average, np.full((1, frames), 1 / frames), weights
    heads = len(w3)
    c, alphas = np.zeros(dim), []
    for head in range(heads):
        alpha = softmax(np.array([w3[head] @ r[k] for k in range(frames)]))  # eqs. 6, 7
        own = slice(head * dim // heads, (head + 1) * dim // heads)
        for k in range(frames):
            c[own] += alpha[k] * h[k][own]  # eq. 8
        alphas.append(alpha)
    return c, np.array(alphas), None


def affine(name: str, w: Weights, m: Array, c: Array) -> Array:
    """W_m m + W_c c + b."""
    name = f"recursion.memory.{name}"
    return w[f"{name}.of_memory.weight"] @ m + w[f"{name}.of_contexts.weight"] @ c + w[f"{name}.of_memory.bias"]


def recursion(
    h: dict[str, Array], begin: Array, w: Weights, config: ModelConfig, streams: list[str]
) -> tuple[Array, list[Seen]]:
    """The memory after the last hop, and what each hop saw. h: (K_s, D) of the streams that the clip has. begin: (D,) the
    memory before the averages are added."""
    m, dim = begin, len(begin)
    if config.memory == "mean":  # sec. 3.2
        for s in h:
            m = m + sum(h[s]) / len(h[s])
    seen = []
    for hop in range(config.hops):
        i = 0 if config.tied else hop
        contexts, attention, dimensions = {}, {}, {}
        for s in streams:
            contexts[s] = np.zeros(dim)
            if s in h:
                name = f"recursion.attention.{s}"
                w2, w3 = w[f"{name}.w2.{i}.weight"], w[f"{name}.w3.{i}"]
                w1 = w[f"{name}.w1.weight"][i * len(w2) : (i + 1) * len(w2)]  # those of all hops, one below the other
                contexts[s], attention[s], weights = attend(h[s], m, w1, w2, w3, config)
                if weights is not None:
                    dimensions[s] = weights
        c = np.concatenate([contexts[s] for s in streams])

        if config.gate == "none":
            m = m + sum(contexts[s] for s in streams)
            seen.append(Seen(attention, dict.fromkeys(h, 1.0), 1.0, 1.0, dimensions))
            continue
        g_w = np.ones(len(c))
        if config.gate in ("joint", "both"):
            g_w = g_w * sigmoid(affine("gate_w", w, m, c))  # eq. 9
        if config.gate in ("per_modality", "both"):
            g_w = g_w * np.concatenate([sigmoid(affine(f"gate_s.{s}", w, m, contexts[s])) for s in streams])  # eq. 11
        g_r = sigmoid(affine("gate_r", w, m, c)) if config.reset else np.ones(dim)  # sec. 3.5
        g_c = sigmoid(affine("gate_c", w, m, c))  # eq. 10
        u = np.tanh(affine("update", w, g_r * m, g_w * c))  # eq. 12
        m = (1 - g_c) * m + g_c * u  # eq. 13
        gates = {s: float(g.mean()) for s, g in zip(streams, np.split(g_w, len(streams)), strict=True) if s in h}
        seen.append(Seen(attention, gates, float(g_c.mean()), float(g_r.mean()), dimensions))
    return m, seen


def decode(x: Array, w: Weights, name: str) -> Array:
    """Secs. 3.4 and 4: a fully connected layer, then the outputs."""
    hidden = np.maximum(w[f"{name}.layers.0.weight"] @ x + w[f"{name}.layers.0.bias"], 0)
    return w[f"{name}.output.weight"] @ hidden + w[f"{name}.output.bias"]


def rrnn(clip: Clip, w: Weights, config: ModelConfig, streams: list[str]) -> tuple[Array, list[Seen]]:
    """Outputs (C,) of one clip, and what each hop saw."""
    x, begin = standardised(clip, w, streams), np.zeros(2 * config.hidden)  # sec. 3.3
    if config.deviations:
        begin = begin + sum(varying(x[s], w, s) for s in x)
    m, seen = recursion(encode(clip, w, streams), begin, w, config, streams)
    return decode(m, w, "decoder"), seen


def early(clip: Clip, w: Weights, config: ModelConfig, streams: list[str]) -> tuple[Array, list[Seen]]:
    """Sec. 4: encoder outputs resampled to the clip's fastest stream and concatenated; the parallel blocks are one."""
    h, dim = encode(clip, w, streams), 2 * config.hidden
    longest = max((len(h[s]) for s in h), default=0)
    fused = np.zeros((longest, len(streams) * dim))
    source = {s: [int((j + 0.5) * len(h[s]) / longest) for j in range(longest)] for s in h}
    for j in range(longest):
        for at, s in enumerate(streams):
            if s in h:
                fused[j, at * dim : (at + 1) * dim] = h[s][source[s][j]]
    one = {"fused": fused} if longest else {}
    x, begin = standardised(clip, w, streams), np.zeros(len(streams) * dim)
    for at, s in enumerate(streams):
        if config.deviations and s in x:
            begin[at * dim : (at + 1) * dim] = varying(x[s], w, s)
    m, seen = recursion(one, begin, w, config, ["fused"])
    return decode(m, w, "decoder"), [_of_each_stream(hop, source, h) for hop in seen]


def _of_each_stream(hop: Seen, source: dict[str, list[int]], h: dict[str, Array]) -> Seen:
    """The weight of a stream's frame is that of all the frames it was repeated for."""
    attention = {}
    for s in h:
        attention[s] = np.zeros((len(hop.attention["fused"]), len(h[s])))
        for j, k in enumerate(source[s]):
            attention[s][:, k] += hop.attention["fused"][:, j]
    gates = {s: gate for s in h for gate in hop.gates.values()}
    return Seen(attention, gates, hop.update, hop.reset, hop.dimensions)


def late(clip: Clip, w: Weights, config: ModelConfig, streams: list[str]) -> tuple[Array, list[Seen]]:
    """Sec. 4: final-step encoder outputs through a network each, and a linear weighting over the streams that are there."""
    h = encode(clip, w, streams)
    total, prediction = 0.0, np.zeros(len(w[f"decoders.{streams[0]}.output.bias"]))
    for at, s in enumerate(streams):
        if s in h:
            final = np.concatenate([h[s][-1][: config.hidden], h[s][0][config.hidden :]])  # each direction's last step
            weight = np.exp(w["weights"][at])
            prediction = prediction + weight * decode(final, w, f"decoders.{s}")
            total += weight
    return prediction / total if total else prediction, []


ARCHITECTURES = {"rrnn": rrnn, "early": early, "late": late}
