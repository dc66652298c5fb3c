"""The paper's equations for one clip, in float64 NumPy, frame by frame: an independent transcription to compare with."""

from __future__ import annotations

import numpy as np

Weights = dict[str, np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm(x: np.ndarray, w: Weights, prefix: str) -> np.ndarray:
    """Hochreiter and Schmidhuber's cell as torch lays it out (gates i, f, g, o), over x (K, F): (K, H)."""
    w_ih, w_hh = w[f"{prefix}.weight_ih_l0"], w[f"{prefix}.weight_hh_l0"]
    bias = w[f"{prefix}.bias_ih_l0"] + w[f"{prefix}.bias_hh_l0"]
    h = c = np.zeros(w_hh.shape[1])
    out = []
    for frame in x:
        i, f, g, o = np.split(w_ih @ frame + w_hh @ h + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.array(out)


def rrnn(clip: dict[str, np.ndarray], w: Weights, streams: list[str], hops: int, tied: bool, memory: str) -> np.ndarray:
    """Outputs (C,) of one clip, a dict of (K, F) sequences; streams that it lacks are absent."""
    hidden = w[f"encoders.{streams[0]}.forward_lstm.weight_hh_l0"].shape[1]
    dim = 2 * hidden
    h: dict[str, np.ndarray] = {}
    for s in streams:
        if s in clip:
            x = (clip[s] - w[f"standardise.{s}.mean"]) / w[f"standardise.{s}.std"]
            x = np.where(np.isnan(x), 0.0, x)
            forward = lstm(x, w, f"encoders.{s}.forward_lstm")  # eq. 1
            backward = lstm(x[::-1], w, f"encoders.{s}.backward_lstm")[::-1]  # eq. 2
            h[s] = np.concatenate([forward, backward], axis=1)  # eq. 3
    m = sum((h[s].mean(0) for s in h), np.zeros(dim)) if memory == "mean" else np.zeros(dim)
    for hop in range(hops):
        contexts = []
        for s in streams:
            if s not in h:
                contexts.append(np.zeros(dim))
                continue
            i = 0 if tied else hop
            w1 = w[f"attention.{s}.w1.weight"][i * hidden : (i + 1) * hidden]
            w2, w3 = w[f"attention.{s}.w2.{i}.weight"], w[f"attention.{s}.w3.{i}"]
            scores = np.array([w3 @ (np.tanh(w1 @ frame) * np.tanh(w2 @ m)) for frame in h[s]])  # eqs. 5, 6
            alpha = np.exp(scores) / np.exp(scores).sum()  # eq. 7
            contexts.append(sum(a * frame for a, frame in zip(alpha, h[s], strict=True)))  # eq. 8
        c = np.concatenate(contexts)

        def affine(name: str, m: np.ndarray, c: np.ndarray) -> np.ndarray:
            of_memory = w[f"gate.{name}.of_memory.weight"] @ m + w[f"gate.{name}.of_memory.bias"]
            return of_memory + w[f"gate.{name}.of_contexts.weight"] @ c

        g_w = sigmoid(affine("gate_w", m, c))  # eq. 9
        g_c = sigmoid(affine("gate_c", m, c))  # eq. 10
        u = np.tanh(affine("update", m, g_w * c))  # eq. 12
        m = (1 - g_c) * m + g_c * u  # eq. 13
    decoded = np.maximum(w["decoder.0.weight"] @ m + w["decoder.0.bias"], 0)
    return w["output.weight"] @ decoded + w["output.bias"]
