from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from jobs.export import cli
from rrnn.config import ModelConfig
from rrnn.data import collate
from rrnn.export import difference, export_program, onnx_values, program_values, ragged_clips, save_program
from rrnn.model import Model
from rrnn.predict import predict
from rrnn.run import ModelCard, RunFolder, save_model


def trained(link: str = "softmax", **options: Any) -> tuple[Model, ModelCard]:
    """A model with weights and statistics that are not those of a new one."""
    streams = {
        "face": {"columns": ["x", "y", "z"], "modality": "vision"},
        "words": {"columns": list("abcde"), "modality": "text"},
    }
    small = {} if options.get("architecture") == "naive" else {"hidden": 4}
    card = ModelCard(ModelConfig(**{**small, **options}), ("calm", "glad", "sad"), link, streams)
    torch.manual_seed(0)
    model = card.build().eval()
    for layer in model.standardise.values():
        layer.mean.normal_()  # type: ignore[union-attr, operator]
        layer.std.uniform_(0.5, 2.0)  # type: ignore[union-attr, operator]
    return model, card


def one_frame_and_long(card: ModelCard) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(9)
    return [
        {"face": random.normal(size=(1, 3)).astype(np.float32)},
        {"face": random.normal(size=(250, 3)).astype(np.float32), "words": random.normal(size=(1, 5)).astype(np.float32)},
    ]


def test_what_is_not_in_the_file_is_told(tmp_path: Path) -> None:
    model, card = trained(architecture="naive")
    for name, normalise, pool, told in (
        ("plain", "none", {}, False),
        ("prepared", "speaker", {"face": 8, "words": 1}, True),
    ):
        prepared = replace(card, normalise=normalise, pool=pool)
        save_model(RunFolder(str(tmp_path / name)), prepared, model.state_dict())
        said = CliRunner().invoke(cli, [str(tmp_path / name), "--out", str(tmp_path / "model.pt2")]).output
        assert "largest difference" in said
        assert ("train.normalise=speaker" in said and "each 8 frames of face into one" in said) == told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("link", "options"),
    [
        ("softmax", {"hops": 2}),
        ("clip", {"architecture": "early", "align": "concatenative", "heads": 2, "gate": "per_modality", "hops": 2}),
    ],
)
def test_onnx_gives_the_models_values_for_any_clips_and_lengths(link: str, options: dict[str, Any], tmp_path: Path) -> None:
    model, card = trained(link, **options)
    model_id = save_model(RunFolder(str(tmp_path / "run")), card, model.state_dict())
    path = tmp_path / "model.onnx"
    said = CliRunner().invoke(cli, [str(tmp_path / "run"), "--out", str(path)], catch_exceptions=False).output
    assert "largest difference from the model" in said
    assert [p.name for p in tmp_path.glob("*model*")] == ["model.onnx"]
    assert difference(model, card, path) < 1e-6
    for clips in (one_frame_and_long(card), ragged_clips(card)[:1]):
        np.testing.assert_allclose(
            onnx_values(path, card, collate(clips, card.columns)), predict(model, card, clips), rtol=0, atol=1e-6
        )
    file = onnx.load(path)
    onnx.checker.check_model(file)
    about = {p.key: p.value for p in file.metadata_props}
    assert about["model_id"] == model_id
    assert '"calm", "glad", "sad"' in about["card"]
    assert [i.name for i in file.graph.input] == ["face", "face.lengths", "words", "words.lengths"]
    assert [d.dim_param for d in file.graph.input[0].type.tensor_type.shape.dim[:2]] == ["clips", "frames_0"]


@pytest.mark.parametrize(
    ("link", "options"),
    [
        ("softmax", {"hops": 2}),
        ("clip", {"architecture": "early", "align": "concatenative", "heads": 2, "gate": "per_modality", "hops": 2}),
        ("identity", {"architecture": "late"}),
    ],
)
def test_an_exported_program_gives_the_models_values_for_any_clips_and_lengths(
    link: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model, card = trained(link, **options)
    program = export_program(model, card)
    save_program(program, card, "an-id", tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2")
    for exported in (program, loaded):
        assert difference(model, card, exported) < 1e-6
        clips = one_frame_and_long(card)
        np.testing.assert_allclose(
            program_values(exported, collate(clips, card.columns)), predict(model, card, clips), rtol=0, atol=1e-6
        )


def test_a_model_that_steps_over_frames_in_python_is_refused() -> None:
    model, card = trained(architecture="mfn")
    with pytest.raises(ValueError, match="architecture 'mfn' can't be exported"):
        export_program(model, card)


def test_what_differs_from_the_model_is_no_export() -> None:
    model, card = trained(architecture="naive")
    program = export_program(model, card)
    with torch.no_grad():
        next(model.parameters())[0] += 1
    with pytest.raises(RuntimeError, match=r"differs from the model by 0\."):
        difference(model, card, program)
