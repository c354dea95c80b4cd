"""`lorarar merge --bundle`: a bundle's artifact merges two files as PyTorch does, and the picture is drawn."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from made_once import MadeOnce
from tiny_world import BUNDLE_RANK, random_lora, tiny_hypernet

from export.options import HypernetOptions
from export.write import write_hypernet
from lorarar.commands.merge import main, parser
from lorarar.errors import InputError
from lorarar.layout import Layout
from lorarar.lora import read_lora
from lorarar.merging import learned_options, merge_loras

GIVEN_TO_A_BUNDLE = {
    *("help", "content", "style", "out", "dialect", "dtype"),
    *("bundle", "coefficients_plot", "content_scale", "style_scale"),
}


@pytest.mark.parametrize("item", [item for item in parser()._actions if item.dest not in GIVEN_TO_A_BUNDLE], ids=str)
def test_an_option_that_a_bundle_has_no_use_for_is_refused(item: argparse.Action, tmp_path: Path) -> None:
    value = () if item.nargs == 0 else (str(next(iter(item.choices))) if item.choices else "1",)
    flag, files = item.option_strings[0], ["a.safetensors", "b.safetensors"]
    with pytest.raises(InputError, match=f"{flag} means nothing to a bundle"):
        main([*files, "--bundle", str(tmp_path / "bundle"), "-o", str(tmp_path / "out.safetensors"), flag, *value])


@pytest.mark.parametrize("scale", ["1", "0.5"])
def test_a_bundle_merges_as_pytorch_does(
    scale: str, made_once: MadeOnce, layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = HypernetOptions("onnx", "fp32", BUNDLE_RANK)
    bundle = made_once("hypernet/onnx-fp32", lambda out: write_hypernet(tiny_hypernet(), layout, options, out))
    content, style = (random_lora(layout, (2,), seed, 0.1) for seed in (1, 2))
    content.save(tmp_path / "dog.safetensors")
    style.save(tmp_path / "paint.safetensors")
    files = [str(tmp_path / f"{name}.safetensors") for name in ("dog", "paint")]
    plot, out = tmp_path / "m.png", tmp_path / "merged.safetensors"
    given = ["--style-scale", scale, "--coefficients-plot", str(plot), "-o", str(out)]
    assert main([*files, "--bundle", str(bundle), *given]) == 0
    want = merge_loras(
        content, style, layout, "learned", learned_options(tiny_hypernet().predictor, style_scale=float(scale))
    ).lora
    merged = read_lora(out)
    for name, layer in want.layers.items():
        np.testing.assert_allclose(merged.layers[name].delta(), layer.delta(), atol=1e-4)
    said = capsys.readouterr()
    assert "learned" in said.out and "m_c median" in said.out and "untrained" in said.err
    assert plot.read_bytes().startswith(b"\x89PNG")
