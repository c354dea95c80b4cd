"""Plans of exports: the sizes are those of real networks and of measured artifacts."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from measured_pages import DOCS, PAGES, targets_page
from safetensors.torch import save_file
from tiny_world import soc_of
from torch import nn

from export.plan import PHONE_BYTES, ComponentPlan, Plan, advice, plan_pipeline
from export.targets import TARGETS, find_target
from lorarar.base.names import CONFIGS, load_layout
from lorarar.base.sources import meta_parts, open_pipeline
from lorarar.commands.export import main
from lorarar.errors import InputError


@cache
def planned(base: str, target: str, precision: str, rank: int = 64) -> Plan:
    return plan_pipeline(base, target=target, precision=precision, soc=soc_of(target), rank=rank)


def test_a_folder_is_counted_as_it_is(tiny_pipeline: Path) -> None:
    found = planned(str(tiny_pipeline), "onnx", "fp32", rank=3)
    pipeline = open_pipeline(str(tiny_pipeline), False, torch.float32)
    pipeline.vae.encoder = pipeline.vae.quant_conv = None
    real = {"text_encoder": pipeline.text_encoder, "text_encoder_2": pipeline.text_encoder_2}
    real |= {"unet": pipeline.unet, "vae_decoder": pipeline.vae}
    assert [part.name for part in found.components] == list(real)
    for part in found.components:
        count = sum(value.numel() for value in real[part.name].parameters())
        assert (part.parameters, part.bytes) == (count, 4 * count), part.name
    groups = load_layout(str(tiny_pipeline), "transformer").groups
    factors = sum(6 * len(g.modules) * (g.in_features + g.out_features) for g in groups)
    coefficients = sum(2 * 2 * len(g.modules) * g.in_features for g in groups)  # of two images and two LoRAs
    assert found.unet.adapter_bytes == 4 * (factors + coefficients)
    whole = plan_pipeline(str(tiny_pipeline), target="onnx", precision="fp32", rank=3, text_adapters=True)
    linears = [m for name in ("text_encoder", "text_encoder_2") for m in used_linears(real[name])]
    factors = sum(6 * (linear.in_features + linear.out_features) for linear in linears)
    coefficients = sum(2 * linear.in_features for linear in linears)  # a prompt is encoded alone
    assert sum(part.adapter_bytes for part in whole.components[:2]) == 4 * (factors + coefficients)
    assert whole.unet.adapter_bytes == found.unet.adapter_bytes


def used_linears(model: nn.Module) -> list[nn.Linear]:
    """The linears of a text encoder's layers, but for those of the last of two layers where nothing comes after it."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    last = "text_projection" if "text_projection" in found else ".layers.1."
    return [module for name, module in found.items() if last not in name]


def test_sizes_are_those_that_were_measured() -> None:
    rows = PAGES["full-size"].rows()
    assert {row.base for row in rows} <= CONFIGS.keys()
    for row in rows:
        found = planned(row.base, row.target, row.precision).unet
        assert found.bytes / 1e6 == pytest.approx(row.megabytes, rel=0.03), row
        assert 1 <= found.chunks <= row.chunks, row  # more where a chunk would have too many inputs


def test_time_and_memory_are_those_that_were_measured() -> None:
    rows = PAGES["full-size"].rows()
    assert {(row.target, row.precision) for row in rows} == {
        (name, precision) for name, target in TARGETS.items() for precision in target.costs
    }
    for row in rows:
        found = planned(row.base, row.target, row.precision)
        assert found.export_seconds == pytest.approx(row.export_seconds, rel=0.35), row
        assert found.export_bytes == pytest.approx(row.peak_gib * 2**30, rel=0.15), row
    assert planned("koala-700m", "coreml", "w6").export_bytes is None


@pytest.mark.parametrize("target", TARGETS)
def test_every_offered_precision_has_a_size_and_fewer_bits_are_smaller(target: str) -> None:
    sizes = [
        planned("koala-700m", target, name).unet.bytes for name in sorted(find_target(target).precisions, key=order)
    ]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)


def order(precision: str) -> int:
    """fp32, then fewer bits."""
    return -int(precision.lstrip("fpw")) - (100 if precision == "fp32" else 0)


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_are_made_of_their_rows(name: str, tmp_path: Path) -> None:
    """`python tests/support/measured_pages.py` writes them; no test does."""
    page = PAGES[name]
    assert (DOCS / f"{name}.md").read_text(encoding="utf-8") == page.text(page.rows())
    first, *_ = page.rows()
    page.record(first, folder=tmp_path)
    page.record(replace(first, psnr_db=first.psnr_db + 1), folder=tmp_path)
    assert [row.psnr_db for row in page.rows(tmp_path)] == [first.psnr_db + 1]


def test_the_page_of_targets_is_made_of_rows_and_descriptions() -> None:
    text = targets_page(PAGES["precisions"].rows(), PAGES["full-size"].rows())
    assert (DOCS / "targets.md").read_text(encoding="utf-8") == text
    for target in TARGETS.values():
        assert all(f"| {target.name} | {precision} |" in text for precision in target.precisions)
        assert target.never_run in text


def test_what_a_phone_says() -> None:
    def said(
        target: str, precision: str, size: int, results: int = 0, name: str = "unet", pixels: int = 1024, loras: int = 0
    ) -> str:
        found = find_target(target)
        parameters = round(size / found.bytes_per_weight[precision].linear)
        sizes = {name: round(parameters * found.bytes_per_weight[name].linear) for name in found.precisions}
        chunks = -(-size // found.chunk_bytes) if found.chunk_bytes else 1
        component = ComponentPlan(name, precision, parameters, sizes, size, chunks, lambda: results, loras)
        return "\n".join(advice(Plan("b", found, precision, pixels, (component,))))

    small = said("coreml", "fp16", 10**9)
    assert small.startswith("unet needs 1.0 GB while it runs (1.0 of weights") and "within the 3.0 GB" in small
    assert "pipeline" not in small
    assert "a pipeline of 2 or more chunks in one package" in said("coreml", "fp16", 10**9 + 1)
    assert "pipeline" not in said("onnx", "fp16", 2 * 10**9)
    assert said("coreml", "fp16", PHONE_BYTES, loras=10).endswith("choose the precision w8 or w6 or w4")
    assert said("coreml", "w6", PHONE_BYTES, loras=10).endswith("choose the precision w4")  # never a larger one
    assert said("coreml", "w8", PHONE_BYTES, loras=PHONE_BYTES // 3).endswith(
        "choose the precision w4"
    )  # w6 has no room
    assert said("onnx", "w4", PHONE_BYTES, loras=10).endswith("choose a lower `rank`, fewer `loras`, or a smaller base")
    assert said("onnx", "w4", 4 * PHONE_BYTES).endswith("choose a smaller base")
    assert said("coreml", "fp16", 10, PHONE_BYTES + 1, "vae_decoder").endswith(
        "`resolution` 768, or `vae_tile` 512, or `tiny_vae`"
    )
    assert "`vae_precision` fp16" in said("coreml", "fp32", 10, PHONE_BYTES + 1, "vae_decoder")
    assert "vae_precision" not in said("onnx", "fp32", 10, PHONE_BYTES + 1, "vae_decoder")
    assert said("onnx", "fp32", 10, 4 * PHONE_BYTES, pixels=512).endswith("choose a smaller base")
    assert "`resolution` 512" in said("onnx", "fp32", 10, 3 * PHONE_BYTES)


def test_the_command_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pipeline", "--target", "coreml", "--base", "sdxl", "--plan"]) == 0
    table = capsys.readouterr().out
    assert "export with its check: about" in " ".join(table.split())
    assert "nothing is made yet" in table and "2567.46 M" in table and "2 or more chunks" in " ".join(table.split())
    assert list(tmp_path.iterdir()) == []


def test_how_a_bundle_draws_changes_no_plan(tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["pipeline", "--target", "onnx", "--base", str(tiny_pipeline), "--plan"]
    told = set()
    for extra in ([], ["--steps", "3"], ["--guidance", "3"], ["--guidance-rescale", "0.5"]):
        assert main([*given, *extra]) == 0
        told.add(capsys.readouterr().out)
    assert len(told) == 1


@pytest.mark.parametrize("batch", ["-1", "3"])
def test_a_batch_that_is_not_exported_is_not_planned(batch: str) -> None:
    with pytest.raises(InputError, match=f"--batch is {batch}; valid are 1, and 2"):
        main(["pipeline", "--target", "onnx", "--plan", "--batch", batch])


def test_a_plan_names_what_is_not_installed() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from lorarar.commands.export import main; main(['pipeline', '--target', 'onnx', '--plan'])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "InputError: " in ended.stderr and "[train]" in ended.stderr.splitlines()[-1]


def test_a_single_file_can_not_be_planned(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="a single file has no configs to plan by"):
        meta_parts(str(path))
    with pytest.raises(InputError, match="unknown base 'nothing'"):
        meta_parts("nothing")


def test_what_an_export_refuses_is_not_planned(tiny_pipeline: Path) -> None:
    with pytest.raises(InputError, match="`resolution` is 8192; a pipeline's is 4096 at most"):
        plan_pipeline(str(tiny_pipeline), target="onnx", resolution=8192)


def test_a_tiny_vae_is_planned(tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diffusers import AutoencoderTiny

    widths = open_pipeline(str(tiny_pipeline), False, torch.float32).vae.config.block_out_channels
    blocks = {"encoder_block_out_channels": (8,) * len(widths), "decoder_block_out_channels": (8,) * len(widths)}
    layers = {"num_encoder_blocks": (1,) * len(widths), "num_decoder_blocks": (1,) * len(widths)}
    vae = AutoencoderTiny(**blocks, **layers, latent_channels=4)
    vae.save_pretrained(tmp_path / "vae")
    given = ["pipeline", "--target", "onnx", "--base", str(tiny_pipeline), "--plan"]
    lines = []
    for extra in ([], ["--tiny-vae", str(tmp_path / "vae")]):
        assert main([*given, *extra]) == 0
        lines += [line for line in capsys.readouterr().out.splitlines() if "vae_decoder" in line]
    decoder = sum(value.numel() for value in vae.decoder.parameters())
    assert f"{decoder / 1e6:.2f} M" in lines[1] and lines[1] != lines[0]
