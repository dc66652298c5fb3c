"""The tables of Beard et al. (CoNLL 2018) in its layout and order, with the paper's figures and people's, and ours beside them.

Which of our experiments stand in which row is PAPER_ROWS, by the names of rrnn.experiments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rrnn.statistics import Estimate
from rrnn.tables import Cell, Experiment, Table, counts

NOISE_LEVEL = 1.0  # in standard deviations of each column: the paper gives no level for table 3


@dataclass(frozen=True)
class PaperRow:
    """A row of a table of the paper. cells: what its descriptive columns say; figures: its results, shares as shares;
    experiments: which of ours belong beside it, by the name in their configuration; noise_on: of the modality that was
    corrupted, for which ours are taken from ablation.parquet."""

    cells: tuple[str, ...]
    figures: Mapping[str, float]
    experiments: tuple[str, ...] = ()
    noise_on: str | None = None


@dataclass(frozen=True)
class PaperTable:
    """columns: the descriptive ones. measures: key to heading and kind."""

    name: str
    title: str
    columns: tuple[str, ...]
    measures: Mapping[str, tuple[str, str]]
    rows: tuple[str, ...]
    notes: tuple[str, ...] = ()


_LSTM = "LSTM"
_THREE = ("T+A+V", "COVAREP, FACET, Word-vec", _LSTM)


def _errors(mse: float, mae: float, weighted_accuracy: float) -> dict[str, float]:
    return {"mse": mse, "mae": mae, "weighted_accuracy": weighted_accuracy}


PAPER_ROWS: dict[str, PaperRow] = {
    # Table 1. People's figures are those of Cao et al. 2014 (IEEE Transactions on Affective Computing), per response.
    "crema_d_human_audio": PaperRow(("Human performance", "Audio"), {"accuracy": 0.409}),
    "crema_d_audio": PaperRow(("COVAREP Features + LSTM Decoder", "Audio"), {"accuracy": 0.415}, ("crema_d_audio",)),
    "crema_d_vision": PaperRow(("OpenFace Features + LSTM Decoder", "Vision"), {"accuracy": 0.525}, ("crema_d_vision",)),
    "crema_d_human_vision": PaperRow(("Human performance", "Vision"), {"accuracy": 0.582}),
    "crema_d_human": PaperRow(("Human performance", "Vision+Audio"), {"accuracy": 0.636}),
    "crema_d_gca": PaperRow(
        ("(OpenFace features + LSTM) + (COVAREP Features + LSTM) + Dual Attention", "Vision+Audio"),
        {"accuracy": 0.650},
        ("crema_d_gca",),
    ),
    # Table 2
    "ravdess_audio": PaperRow(("Audio", "COVAREP", _LSTM, "Nil"), {"accuracy": 0.4125}, ("ravdess_audio",)),
    "ravdess_vision": PaperRow(("Vision", "OpenFace", _LSTM, "Nil"), {"accuracy": 0.5208}, ("ravdess_vision",)),
    "ravdess_gca": PaperRow(("Audio + Vision", "COVAREP, OpenFace", _LSTM, "GCA"), {"accuracy": 0.5833}, ("ravdess_gca",)),
    # Table 3
    "mosei_text": PaperRow(("Text (T)", "Word-vec", _LSTM, "Nil", "Nil"), _errors(0.6326, 0.9830, 0.5485), ("mosei_text",)),
    "mosei_audio": PaperRow(("Audio (A)", "COVAREP", _LSTM, "Nil", "Nil"), _errors(0.6049, 1.0562, 0.5249), ("mosei_audio",)),
    "mosei_vision": PaperRow(("Vision (V)", "FACET", _LSTM, "Nil", "Nil"), _errors(0.5026, 0.9909, 0.5476), ("mosei_vision",)),
    "mosei_early": PaperRow((*_THREE, "Early fusion", "Nil"), _errors(0.5319, 0.7694, 0.5188), ("mosei_early",)),
    "mosei_late": PaperRow((*_THREE, "Late fusion", "Nil"), _errors(0.5047, 0.9825, 0.5889), ("mosei_late",)),
    "mosei_gca": PaperRow((*_THREE, "GCA", "Nil"), _errors(0.4696, 0.9412, 0.6163), ("mosei_gca",)),
    "mosei_gca_noise": PaperRow((*_THREE, "GCA", "Vision"), _errors(0.5034, 0.9920, 0.6068), ("mosei_gca",), "vision"),
    "mosei_gating": PaperRow((*_THREE, "GCA + Gating", "Nil"), _errors(0.4691, 0.8705, 0.5765), ("mosei_gating",)),
    "mosei_gating_noise": PaperRow(
        (*_THREE, "GCA + Gating", "Vision"), _errors(0.4742, 0.8857, 0.5688), ("mosei_gating",), "vision"
    ),
}

_OTHER_CLIPS = (
    "The paper does not say how it divided the clips, nor whether speakers were held out, so its figures and ours are of "
    "different test clips, and our features may be others."
)

PAPER_TABLES = (
    PaperTable(
        "paper-1-crema-d",
        "Table 1 of the paper: CREMA-D",
        ("Model", "Modality"),
        {"accuracy": ("Accuracy", "percent")},
        ("crema_d_human_audio", "crema_d_audio", "crema_d_vision", "crema_d_human_vision", "crema_d_human", "crema_d_gca"),
        (
            "The paper's caption says 8 emotions; CREMA-D has 6.",
            "Human performance is of Cao et al. (2014), per response, over all clips.",
            _OTHER_CLIPS,
        ),
    ),
    PaperTable(
        "paper-2-ravdess",
        "Table 2 of the paper: RAVDESS, 8 emotions, normal speech",
        ("Modality", "Feature", "Encoder", "Attention"),
        {"accuracy": ("Accuracy", "percent:2")},
        ("ravdess_audio", "ravdess_vision", "ravdess_gca"),
        (_OTHER_CLIPS,),
    ),
    PaperTable(
        "paper-3-cmu-mosei",
        "Table 3 of the paper: CMU-MOSEI",
        ("Modality", "Feature", "Encoder", "Attention/Fusion", "Corruption"),
        {"mse": ("MSE", "number:4"), "mae": ("MAE", "number:4"), "weighted_accuracy": ("WA", "number:4")},
        (
            *("mosei_text", "mosei_audio", "mosei_vision", "mosei_early", "mosei_late", "mosei_gca", "mosei_gca_noise"),
            *("mosei_gating", "mosei_gating_noise"),
        ),
        (
            "Errors are summed over the six emotions.",
            f"Corruption is white Gaussian noise; the paper does not say how strong, ours has {NOISE_LEVEL:g} standard "
            "deviation of each column, from ablation.parquet, which keeps no interval.",
            _OTHER_CLIPS,
        ),
    ),
)


def paper_table(of: PaperTable, experiments: Sequence[Experiment]) -> tuple[Table, int]:
    """The paper's table in its order, and in how many rows ours stand beside it. A row of which several of our experiments are
    has a line for each of them."""
    columns = dict.fromkeys(of.columns, "text")
    for name, kind in of.measures.values():
        columns |= {name: kind, f"Ours: {name}": kind}
    columns |= {"Ours": "text", "Corpus": "text", "Seeds": "count", "Folds": "count", "Test clips": "count"}
    rows: list[list[Cell]] = []
    matched = 0
    for row in (PAPER_ROWS[key] for key in of.rows):

        def line(ours: Sequence[Cell], about: Sequence[Cell], row: PaperRow = row) -> list[Cell]:
            return [*row.cells, *(x for k, own in zip(of.measures, ours, strict=True) for x in (row.figures[k], own)), *about]

        lines = []
        for e in experiments:
            found = [_ours(row, e, key) for key in of.measures] if e.name in row.experiments else [None]
            if None not in found:
                lines.append(line(found, [e.label, str(e.runs[0].config["corpus"]), *counts(e)]))
        matched += len(lines)
        rows += lines or [line([None] * len(of.measures), [None] * 5)]
    return Table(of.name, of.title, columns, rows, notes=of.notes), matched


def _ours(row: PaperRow, e: Experiment, key: str) -> Estimate | None:
    return e.estimates.get(key) if row.noise_on is None else e.with_noise(row.noise_on, NOISE_LEVEL, key)
