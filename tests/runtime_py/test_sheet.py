"""Contact sheets: what is refused before anything is drawn, what is told, and what the times are of."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stand_in import HYPERNET

import runtime_py.session
import runtime_py.sheet
from lorarar.commands.generate import main as generate
from lorarar.commands.sheet import main
from lorarar.errors import InputError
from lorarar.lora import LoRA, LoraLayer, read_lora, write_lora
from runtime_py import Bundle
from runtime_py.manifest import MANIFEST
from runtime_py.pipeline import Drawn
from runtime_py.sheet import LABEL, MARGIN, ROWS, SWEEP, Column, draw_column, names_of, parse_grid, table_rows

CONTENT, STYLE = HYPERNET / "content.safetensors", HYPERNET / "style.safetensors"
SIDE = 2 * 8 + MARGIN


@pytest.fixture
def bundles(folder: Path, opened: list[str], tmp_path: Path) -> list[Path]:
    """Three of one target, precision and folder's name."""
    return [Path(shutil.copytree(folder, tmp_path / name / "bundle")) for name in "abc"]


def sheet(bundles: list[Path], out: Path, *more: str, content: Path = CONTENT) -> int:
    given = ["--content", str(content), "--style", str(STYLE), "--steps", "1", "-o", str(out)]
    return main([*map(str, bundles), *given, *more])


def test_every_bundle_has_a_column_and_a_name_of_its_own(bundles: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    assert sheet(bundles, out, "--prompt", "a") == 0
    with Image.open(out) as picture:
        assert picture.height == 2 * (LABEL + MARGIN) + (4 + len(bundles)) * SIDE
    opened = [Bundle.open(path) for path in bundles]
    names = names_of(opened)
    assert names == [f"onnx fp32 (bundle) ({number})" for number in (1, 2, 3)]
    assert names_of(opened[:1]) == ["onnx fp32"]
    renamed = bundles[1].rename(bundles[1].with_name("other"))
    assert names_of([opened[0], Bundle.open(renamed)]) == ["onnx fp32 (bundle)", "onnx fp32 (other)"]


def test_every_row_and_strength_is_what_its_label_says(folder: Path, opened: list[str]) -> None:
    content, style = read_lora(CONTENT), read_lora(STYLE)
    session = Bundle.open(folder).session()
    request = session.pipeline.request("a", steps=1)
    column = draw_column(session, content, style, request, lambda *_: None)
    alone = {"content": [content], "style": [style]}
    for row in ROWS:
        session.load(alone.get(row, [content, style]))
        session.merge("direct" if row == "direct" else "learned")
        np.testing.assert_array_equal(column.rows[row].image, session.draw(request).image, row)
    for strengths, drawn in zip(SWEEP, column.sweep, strict=True):
        session.merge("learned", strengths=strengths)
        np.testing.assert_array_equal(drawn.image, session.draw(request).image, str(strengths))
    every = [drawn.image.tobytes() for drawn in (*column.rows.values(), *column.sweep)]
    assert len(set(every)) == len(every) - 1  # the sweep's middle is the row of the merge


@pytest.mark.parametrize("option", ["--content-image", "--style-image"])
def test_a_sheet_overwrites_no_reference(bundles: list[Path], tmp_path: Path, option: str) -> None:
    reference = tmp_path / "reference.png"
    Image.new("RGB", (8, 8), "red").save(reference)
    before = reference.read_bytes()
    with pytest.raises(InputError, match="overwrite"):
        sheet(bundles[:1], reference, "--prompt", "a", option, str(reference))
    assert reference.read_bytes() == before


def test_nothing_is_written_into_a_bundle(bundles: list[Path]) -> None:
    given = ["--prompt", "a"]
    with pytest.raises(InputError, match="would overwrite the input"):
        sheet(bundles, bundles[1] / "sheet.png", *given)
    with pytest.raises(InputError, match="would overwrite the input"):
        generate([str(bundles[1]), *given, "-o", str(bundles[1] / "new" / "deep" / "image.png")])
    (bundles[1] / "more").mkdir()
    with pytest.raises(InputError, match="would overwrite the input"):
        generate([str(bundles[1]), *given, "-o", str(bundles[1] / "more" / "image.png")])


def test_images_of_different_sizes_are_refused_before_drawing(
    bundles: list[Path], opened: list[str], tmp_path: Path
) -> None:
    manifest: Any = json.loads((bundles[1] / MANIFEST).read_text())
    manifest["pipeline"]["pixels"] = 16
    manifest["components"]["vae_decoder"]["outputs"][0]["shape"] = [1, 3, 16, 16]
    (bundles[1] / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"different sizes \(onnx fp32 \(bundle\) \(1\) 8×8, .* 16×16\)"):
        sheet(bundles[:2], tmp_path / "sheet.png", "--prompt", "a")
    assert opened == []
    # Images of a grid stand beside none of another bundle.
    assert sheet(bundles[:2], tmp_path / "sheet.png", "--prompt", "a", "--grid", "0:1:2") == 0


def fewer_steps(manifest: Any) -> None:
    manifest["pipeline"]["scheduler"]["train_steps"] = 10


def without_hypernet(manifest: Any) -> None:
    del manifest["components"]["hypernet"]
    del manifest["hypernetwork"]


@pytest.mark.parametrize("grid", [(), ("--grid", "0:1:2")])
@pytest.mark.parametrize(
    ("mutate", "message"), [(fewer_steps, "--steps is 20; valid are 1 to 10"), (without_hypernet, "has no hypernet")]
)
def test_what_a_later_bundle_lacks_is_told_before_drawing(
    bundles: list[Path], opened: list[str], tmp_path: Path, mutate: Any, message: str, grid: tuple[str, ...]
) -> None:
    manifest: Any = json.loads((bundles[1] / MANIFEST).read_text())
    mutate(manifest)
    (bundles[1] / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message):
        sheet(bundles[:2], tmp_path / "sheet.png", "--prompt", "a", "--steps", "20", *grid)
    assert opened == []


@pytest.mark.parametrize("grid", [(), ("--grid", "0:1:2")])
def test_loras_that_a_bundle_has_no_room_for_are_told_before_drawing(
    bundles: list[Path], opened: list[str], tmp_path: Path, grid: tuple[str, ...]
) -> None:
    bundle = Bundle.open(bundles[0])
    name, (group, _) = next(iter(bundle.layout.places.items()))
    down, up = np.ones((999, group.in_features), np.float32), np.ones((group.out_features, 999), np.float32)
    write_lora(LoRA({name: LoraLayer(down, up)}), tmp_path / "large.safetensors")
    with pytest.raises(InputError, match="rank"):
        sheet(bundles, tmp_path / "sheet.png", "--prompt", "a", *grid, content=tmp_path / "large.safetensors")
    assert opened == []


def test_a_grid_shows_no_reference(bundles: list[Path], opened: list[str], tmp_path: Path) -> None:
    given = ("--prompt", "a", "--grid", "0:1:2", "--style-image", str(tmp_path / "any.png"))
    with pytest.raises(InputError, match="--style-image is shown in a sheet and not in a --grid"):
        sheet(bundles[:1], tmp_path / "sheet.png", *given)


@pytest.mark.parametrize("grid", ["1:1:4", "1:1.0000001:2", "0:1:1", "0:inf:2", "0:1"])
def test_a_grid_has_strengths_that_differ(grid: str) -> None:
    with pytest.raises(InputError, match="`grid` is"):
        parse_grid(grid)


def test_only_equal_images_are_called_equal() -> None:
    """A black image has no peak: its PSNR against any other is minus infinity."""
    black, white = np.zeros((1, 3, 8, 8), np.float32), np.ones((1, 3, 8, 8), np.float32)
    seconds = dict.fromkeys(("merge", "text", "steps", "decode"), 0.0)

    def column(pixels: np.ndarray) -> Column:
        drawn = Drawn(pixels, np.zeros((1, 4, 2, 2), np.float32), seconds)
        return Column(dict.fromkeys(ROWS, drawn), [drawn] * len(SWEEP))

    rows = table_rows({"black": column(black), "white": column(white)})
    shown = {(name, row): psnr for name, row, psnr, *_ in rows}
    assert shown["black", "learned"] == "equal" and shown["white", "learned"] == "-inf dB"
    assert shown["white", "4 strengths"] == "-inf dB"


@pytest.mark.parametrize("grid", [(), ("--grid", "0:1:2")])
def test_what_is_left_out_is_told(
    bundles: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], grid: tuple[str, ...]
) -> None:
    content = read_lora(CONTENT)
    conv = LoraLayer(np.ones((1, 4, 3, 3), np.float32), np.ones((4, 1, 1, 1), np.float32))
    layers = {**content.layers, "unet.down_blocks.1.resnets.0.conv1": conv}
    write_lora(replace(content, layers=layers), tmp_path / "conv.safetensors")
    prompt = ("--prompt", "dog " * 100)
    assert sheet(bundles[:2], tmp_path / "sheet.png", *prompt, *grid, content=tmp_path / "conv.safetensors") == 0
    told = "".join(capsys.readouterr().err.split())  # a terminal's lines break anywhere
    for number in (1, 2):
        name = f"warning:onnxfp32(bundle)({number}):"
        assert f"{name}thepromptistoolong" in told
        assert f"{name}{tmp_path / 'conv.safetensors'}:" in told and "1convolutions" in told


def test_a_merges_time_is_the_merges_alone(folder: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    session = Bundle.open(folder).session(keep=True)
    measured: list[str] = []
    carried = runtime_py.session.carried

    def slow(*given: Any) -> Any:
        time.sleep(0.05)
        measured.append(given[0].source)
        return carried(*given)

    @contextmanager
    def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
        assert len(measured) == loaded.pop(0)
        before = list(opened)
        yield
        assert opened == before
        seconds[stage] = 0.0

    loaded = [1, 2, 4, 6]
    monkeypatch.setattr(runtime_py.session, "carried", slow)
    monkeypatch.setattr(runtime_py.sheet, "timed", timed)
    request = session.pipeline.request("a", steps=1)
    column = draw_column(session, read_lora(CONTENT), read_lora(STYLE), request, lambda *_: None)
    assert loaded == [] and all(drawn.seconds["merge"] == 0 for drawn in column.rows.values())
