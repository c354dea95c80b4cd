"""A pipeline's export that is interrupted goes on, and makes the same bytes as one that was not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from export import components, golden, parity
from export.graph import ImageSize
from export.hypernet import load_source
from export.manifest import file_entry
from export.pipeline import PipelineOptions, Source, export_pipeline
from export.resume import STATE
from lorarar.base.names import load_layout
from lorarar.base.sources import open_pipeline
from lorarar.errors import InputError
from runtime_py.bundle import Bundle
from runtime_py.check import CheckRow
from runtime_py.parity import Tolerance

PARTS = ["merger", "text_encoder", "text_encoder_2", "unet", "vae_decoder"]
Files = dict[str, bytes]


def export(base: Path, out: Path, steps: int = 4) -> Files:
    """The files of the bundle, by name."""
    layout = load_layout(str(base))
    source = Source(open_pipeline(str(base), False, torch.float32), layout, load_source(None, True, layout))
    export_pipeline(source, PipelineOptions("onnx", "fp32", 2, ImageSize(32, 8, 1), steps, 3.5), out)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


class Interrupted(list[str]):
    """`write_component` by another one: keeps the components' names, in order; the first vae_decoder is interrupted."""

    def __init__(self, write: Callable[..., dict[str, Any]]) -> None:
        super().__init__()
        self.write = write

    def __call__(self, folder: Path, graph: Any, *rest: Any) -> dict[str, Any]:
        self.append(graph.name)
        if graph.name == "vae_decoder" and self.count("vae_decoder") == 1:
            (folder / "vae_decoder.onnx").write_bytes(b"half")
            raise KeyboardInterrupt
        return self.write(folder, graph, *rest)


def made_up(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.onnx"
    path.write_text(name)
    return file_entry(folder, path)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Interrupted:
    """An export whose parts are small files, since a real one takes a minute."""
    names = Interrupted(lambda folder, graph, *rest: made_up(folder, graph.name))
    monkeypatch.setattr(components, "write_component", names)
    monkeypatch.setattr(golden, "write_image", lambda pipeline, layout, options, folder: made_up(folder, "golden"))
    row = CheckRow("", "", "", "passed", "", (), Tolerance(1.0, 1.0), 0.0, 0.0)
    monkeypatch.setattr(parity, "measure", lambda folder, name, progress: [row])
    monkeypatch.setattr(parity, "measure_pipeline", lambda folder, progress: row)
    return names


def interrupted(base: Path, out: Path) -> Path:
    """The folder that an interrupted export leaves."""
    with pytest.raises(KeyboardInterrupt):
        export(base, out)
    assert not out.exists()
    return out.parent / f".{out.name}.unfinished"


@pytest.mark.full
def test_a_real_export_goes_on_and_makes_the_same_bytes(
    shallow_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export(shallow_pipeline, tmp_path / "whole" / "bundle")
    monkeypatch.setattr(components, "write_component", Interrupted(components.write_component))
    interrupted(shallow_pipeline, tmp_path / "bundle")
    assert export(shallow_pipeline, tmp_path / "bundle") == whole
    Bundle.open(tmp_path / "bundle")


def test_it_goes_on(shallow_pipeline: Path, written: Interrupted, tmp_path: Path) -> None:
    interrupted(shallow_pipeline, tmp_path / "bundle")
    assert written == PARTS
    files = export(shallow_pipeline, tmp_path / "bundle")
    assert written == [*PARTS, "vae_decoder"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"] and STATE not in files
    # The second time nothing is interrupted: the same from beginning to end.
    assert export(shallow_pipeline, tmp_path / "other") == files
    assert written == [*PARTS, "vae_decoder", *PARTS]


def other_steps(left: Path) -> int:
    return 5


def damage_a_part(left: Path) -> int:
    data = (left / "unet.onnx").read_bytes()
    (left / "unet.onnx").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return 4


def damage_the_state(left: Path) -> int:
    (left / STATE).write_text("{")
    return 4


@pytest.mark.parametrize(
    ("change", "again"),
    [(other_steps, PARTS), (damage_a_part, ["unet", "vae_decoder"]), (damage_the_state, PARTS)],
)
def test_what_does_not_fit_is_made_again(
    shallow_pipeline: Path, written: Interrupted, tmp_path: Path, change: Callable[[Path], int], again: list[str]
) -> None:
    steps = change(interrupted(shallow_pipeline, tmp_path / "bundle"))
    files = export(shallow_pipeline, tmp_path / "bundle", steps)
    assert written == [*PARTS, *again]
    assert files["unet.onnx"] == b"unet"
    assert json.loads(files["manifest.json"])["pipeline"]["steps"] == steps


def test_an_error_leaves_nothing(shallow_pipeline: Path, tmp_path: Path, written: Interrupted) -> None:
    def fail(*_: Any) -> dict[str, Any]:
        raise InputError("no")

    written.write = fail
    with pytest.raises(InputError, match="no"):
        export(shallow_pipeline, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []
