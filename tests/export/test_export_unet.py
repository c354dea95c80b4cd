"""The exported UNet against diffusers with the same LoRA, for every target and precision."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shared_bundles import RANK, SharedUNets
from tiny_world import random_lora
from unet_runs import at_time, close, given, options, run, tiny_unet, with_diffusers

from export.components.unet import AdaptedUNet
from export.rewrites import REPLACED, ExplicitAttention, ExplicitLayerNorm, GroupNormByRows, PreciseSiLU, rewrite_for
from export.targets import TARGETS, find_target
from export.tolerance import PRECISIONS
from export.write import write_unet
from lorarar.base.names import load_layout
from lorarar.commands.export import main
from lorarar.commands.merge import main as merge_files
from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import save_hypernet
from lorarar.hypernet.network import HypernetConfig, Hypernetwork
from lorarar.layout import Layout
from lorarar.lora import LoRA, write_lora
from lorarar.toolchains import quiet_toolchains
from runtime_py.backends import open_runner, ways_to_run
from runtime_py.bundle import Bundle
from runtime_py.check import check_bundle
from runtime_py.lint import lint_bundle
from runtime_py.mil import Program
from runtime_py.parity import psnr_db

OFFERED = [(name, precision) for name, target in TARGETS.items() for precision in target.precisions]
# Palettes of one table a weight tell nothing on a random network this small, and k-means takes a minute on the
# miniature: they are in test_full_size.
PALETTES = [("coreml", "w6"), ("coreml", "w4"), ("coreai", "w6"), ("coreai", "w4")]
# About a minute or more each; others go the same ways through the converters.
SLOW = {"executorch": ("fp16", "w8", "w4"), "coreml": ("fp32", "w8"), "coreai": ("fp32",), "qnn": (), "onnx": ("w8",)}
# Of XNNPACK's products: 53 to 55 dB where 60 must be reached, so that such an export is refused, as it should be.
SUMS_IN_FP16 = pytest.mark.skipif(
    torch.cpu.get_capabilities().get("avx512_fp16", False), reason="this CPU adds up in fp16 (docs/guide/targets.md)"
)
COMBINATIONS = [
    pytest.param(
        target,
        precision,
        marks=[
            *([pytest.mark.full] if precision in SLOW[target] else []),
            *([SUMS_IN_FP16] if (target, precision) == ("executorch", "fp16") else []),
        ],
    )
    for target, precision in OFFERED
    if (target, precision) not in PALETTES
]


@pytest.fixture(scope="module")
def layout(shallow_pipeline: Path) -> Layout:
    return load_layout(str(shallow_pipeline), "transformer")


@pytest.fixture(scope="module")
def lora(layout: Layout) -> LoRA:
    """A merged LoRA strong enough to be seen: ΔW about as large as the weights."""
    return random_lora(layout, (2 * RANK,), seed=7, up_scale=0.3, down_scale=0.3)


@pytest.mark.parametrize(("target", "precision"), COMBINATIONS)
def test_an_adapter_gives_what_diffusers_gives_with_that_lora(
    shallow_pipeline: Path,
    shared_unets: SharedUNets,
    lora: LoRA,
    tmp_path: Path,
    target: str,
    precision: str,
) -> None:
    """The oracle shares no code with the export: the LoRA goes through a file and PEFT into the stock UNet."""
    bundle = shared_unets[target, precision]
    unet = tiny_unet(shallow_pipeline)
    base = with_diffusers(unet, given(bundle, None))
    path = tmp_path / "lora.safetensors"
    write_lora(lora, path)
    unet.load_lora_adapter(str(path), prefix="unet")
    want = with_diffusers(unet, given(bundle, lora))
    assert psnr_db(want, base) < 20, "the LoRA must change the output, or the comparison says nothing"
    for session in (load() for load in ways_to_run(bundle, "unet")):
        first = run(session, given(bundle, lora))
        assert close(first, want, target, precision), session.runtime
        # Another adapter in the same session, then the first one again: nothing is kept from a run.
        assert close(run(session, given(bundle, None)), base, target, precision), session.runtime
        np.testing.assert_array_equal(run(session, given(bundle, lora)), first, err_msg=session.runtime)


@pytest.mark.parametrize(
    ("target", "precision"),
    [
        ("onnx", "fp32"),
        # The LoRA is fused before a target's converter sees the UNet.
        *(
            pytest.param(*other, marks=[pytest.mark.full])
            for other in (("coreml", "fp16"), ("coreai", "fp16"), ("executorch", "fp32"))
        ),
    ],
)
def test_zero_coefficients_are_the_base_and_a_fused_lora_the_adapter(
    shallow_pipeline: Path,
    layout: Layout,
    shared_unets: SharedUNets,
    lora: LoRA,
    tmp_path: Path,
    target: str,
    precision: str,
) -> None:
    bundle = shared_unets[target, precision]
    zeros = random_lora(layout, (1,), 0, 0.0, 0.0)
    found = {}
    for name, added in (("base", zeros), ("fused", lora)):
        unet = tiny_unet(shallow_pipeline)
        write_unet(unet, layout, options(target, precision, added), tmp_path / name)
        other = Bundle.open(tmp_path / name)
        inputs = given(other, None)
        assert not any(key.startswith(("adapter_", "coefficients_", "roles")) for key in inputs)
        found[name] = run(open_runner(other, "unet"), inputs)
    session = open_runner(bundle, "unet")
    assert np.array_equal(run(session, given(bundle, None)), found["base"])
    assert close(run(session, given(bundle, lora)), found["fused"], target, precision)


def test_a_core_ml_unet_in_chunks_is_the_same(lora: LoRA, shared_unets: SharedUNets, tmp_path: Path) -> None:
    one = shared_unets["coreml", "fp16"]
    with quiet_toolchains():  # coremltools' own, where no one imported it before
        from export.targets.coreml_chunks import cut
    package = Path(shutil.copytree(one.component("unet").path, tmp_path / "unet.mlpackage"))
    assert cut(package, 100_000) >= 3
    whole, chunks = Program.open(one.component("unet").path), Program.open(package)
    assert chunks.inputs == whole.inputs and chunks.outputs == whole.outputs
    inputs = given(one, lora)
    assert np.array_equal(chunks.run(inputs)["noise_pred"], whole.run(inputs)["noise_pred"])


def test_a_core_ml_unet_has_the_neural_engine_s_form(shallow_pipeline: Path, shared_unets: SharedUNets) -> None:
    """Nothing is a linear, nothing in fp32, nothing transposed but the text; two products for each head."""
    bundle = shared_unets["coreml", "fp16"]
    counts = Program.open(bundle.component("unet").path).op_counts()
    attentions = [module for module in tiny_unet(shallow_pipeline).modules() if type(module).__name__ == "Attention"]
    heads, linears = sum(attention.heads for attention in attentions), len(bundle.layout.modules)
    assert counts["matmul"] == 2 * heads + 2 * linears and counts["softmax"] == heads > 5
    assert counts["linear"] == counts["einsum"] == 0 and counts["transpose"] == 1
    # Of the heads of this base, which are narrower than any of SDXL's, and of its many inputs for so small a network.
    assert {finding.rule for finding in lint_bundle(bundle)} <= {"inner", "features"}


def test_onnx_weights_too_large_for_one_file_lie_beside_the_graph(
    shallow_pipeline: Path,
    layout: Layout,
    lora: LoRA,
    shared_unets: SharedUNets,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from export.targets import onnx_converter

    monkeypatch.setattr(onnx_converter, "ONE_FILE", 100_000)
    out = tmp_path / "large"
    write_unet(tiny_unet(shallow_pipeline), layout, options("onnx", "fp32"), out)
    large, one = Bundle.open(out), shared_unets["onnx", "fp32"]
    assert sorted(path.name for path in (out / "unet.onnx").iterdir()) == ["model.onnx", "weights.bin"]
    text = (out / "unet.onnx" / "model.onnx").read_bytes()
    assert len(text) < 1_000_000 and str(Path(__file__).parents[2]).encode() not in text
    assert large.component("unet").entry["bytes"] == pytest.approx(one.component("unet").entry["bytes"], rel=0.05)
    inputs = given(one, lora)
    np.testing.assert_array_equal(run(open_runner(large, "unet"), inputs), run(open_runner(one, "unet"), inputs))


def test_onnx_widens_large_weights_of_half_precision_in_each_run(
    lora: LoRA, shared_unets: SharedUNets, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime_py.backends import onnx

    half, single = shared_unets["onnx", "fp16"], shared_unets["onnx", "fp32"]
    inputs = given(half, lora)
    at_load = run(open_runner(half, "unet"), inputs)
    monkeypatch.setattr(onnx, "WIDEN_AT_LOAD", 1000)
    assert len(onnx.disabled_optimizers(half.component("unet"))) == 2
    assert not onnx.disabled_optimizers(single.component("unet"))
    # Not bit for bit: other operations are fused then, and results are rounded to fp16 between others.
    assert psnr_db(run(open_runner(half, "unet"), inputs).astype(np.float64), at_load.astype(np.float64)) > 60


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_s_form_is_the_same_function(shallow_pipeline: Path, target: str) -> None:
    unet = tiny_unet(shallow_pipeline)
    generator = torch.Generator().manual_seed(0)
    for parameter in unet.parameters():
        # Norms start as the identity, which hides a forgotten scale or shift.
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    other = copy.deepcopy(unet)
    rewrite_for(find_target(target), other)
    kept = {"time embedding with a precise silu", "attention in products"}  # these keep their types
    gone = {REPLACED[name][0] for name in find_target(target).replaced if name not in kept}
    assert not gone & {type(module) for module in other.modules()}
    processors = {type(module.processor) for module in other.modules() if hasattr(module, "processor")}
    assert (processors == {ExplicitAttention}) == (target == "executorch")
    assert any(type(module) is PreciseSiLU for module in other.modules()) == (target == "qnn")
    inputs = {
        "sample": torch.randn(2, 4, 8, 8, generator=generator).numpy(),
        "encoder_hidden_states": torch.randn(2, 77, unet.config.cross_attention_dim, generator=generator).numpy(),
        "text_embeds": torch.randn(2, 48, generator=generator).numpy(),
    }
    times = [999.0, 3.0]
    want = with_diffusers(unet, inputs, times)
    np.testing.assert_allclose(with_diffusers(other, inputs, times), want, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize(("channels", "side"), [(320, 128), (1920, 64), (2560, 32), (128, 1024), (512, 512)])
def test_no_axis_of_a_group_norm_is_too_long_for_the_neural_engine(channels: int, side: int) -> None:
    """Of SDXL's UNet and VAE for images of 1024 pixels: 16,384 on an axis, up to the A15."""
    norm = torch.nn.GroupNorm(32, channels, device="meta")
    seen: list[tuple[int, ...]] = []

    class Noted(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            seen.extend(tuple(value.shape) for value in (made if isinstance(made, tuple) else (made,)))
            return made

    with Noted():
        GroupNormByRows(norm)(torch.empty(1, channels, side, side, device="meta"))
    assert seen and max(max(shape) for shape in seen) <= 16_384


def test_a_norm_in_half_precision_bears_what_squares_beyond_it() -> None:
    """Rows of any size, and one number far from a row's others: (x − mean)² is over fp16 from 256 on."""
    numbers = torch.Generator().manual_seed(0)
    rows = torch.randn(12, 1280, generator=numbers) * torch.logspace(-3, 2, 12)[:, None]
    rows[6:, 5] = torch.tensor([300.0, 4000, 30000, -300, -4000, 60000])
    norm = torch.nn.LayerNorm(1280)
    torch.nn.init.normal_(norm.weight, generator=numbers)
    want = norm(rows.half().float())
    got = ExplicitLayerNorm(norm.half())(rows.half()).float()
    assert (got - want).abs().max() < 2e-3 * want.abs().max()
    constant = ExplicitLayerNorm(norm)(torch.full((1, 1280), 3.0).half())
    assert torch.equal(constant, norm.bias[None])


@pytest.mark.parametrize("target", ["onnx", "coreml", "coreai"])
def test_the_last_time_is_as_exact_as_any_in_half_precision(
    shallow_pipeline: Path, shared_unets: SharedUNets, lora: LoRA, target: str
) -> None:
    """Were the angles made in the UNet, t·frequency would have steps of 0.5 at t = 999: 16 dB."""
    bundle = shared_unets[target, "fp16"]
    component = bundle.component("unet")
    assert {spec.dtype for spec in component.inputs} == {np.float16}
    for time in (999.0, 998.5):
        inputs = given(bundle, None) | at_time(time, component)
        want = with_diffusers(tiny_unet(shallow_pipeline), inputs, [time])
        for session in (load() for load in ways_to_run(bundle, "unet")):
            assert close(run(session, inputs), want, target, "fp16"), session.runtime


def test_a_unet_with_other_sinusoids_is_refused(shallow_pipeline: Path) -> None:
    unet = tiny_unet(shallow_pipeline)
    unet.register_to_config(flip_sin_to_cos=False)
    with pytest.raises(InputError, match="flip_sin_to_cos=False"):
        AdaptedUNet(unet, None)


@pytest.mark.parametrize(("target", "precision"), COMBINATIONS)
def test_a_bundle_of_a_unet_checks_itself(shared_unets: SharedUNets, target: str, precision: str) -> None:
    bundle = shared_unets[target, precision]
    assert bundle.manifest["components"]["unet"]["parity"]["status"] == "passed"
    assert "hypernetwork" not in bundle.manifest
    assert {row.status for row in check_bundle(bundle)} == {"passed"}


def test_the_rows_of_a_stack_for_core_ml_are_what_the_neural_engine_multiplies() -> None:
    rows = {target: [find_target(target).stack(rank, 2).rank for rank in (1, 4, 16, 17)] for target in TARGETS}
    assert rows["coreml"] == [32, 32, 32, 64]
    assert rows["onnx"] == rows["executorch"] == [2, 8, 32, 34]


def test_every_precision_is_offered_or_has_a_reason() -> None:
    for target in TARGETS.values():
        assert sorted([*target.precisions, *target.not_offered]) == sorted(PRECISIONS)
        for precision, reason in target.not_offered.items():
            with pytest.raises(InputError, match=re.escape(reason)):
                target.require("unet", precision)
        assert (
            target.default_precision in target.precisions and target.default_precision in target.tolerances["hypernet"]
        )
        assert target.bytes_per_weight.keys() >= set(target.precisions)
        for component, offered in target.tolerances.items():
            assert component in ("pipeline", "hypernet") or target.bytes_per_weight.keys() >= offered.keys()


def test_the_memory_that_a_phone_counts_has_the_inputs_and_results_too(shared_unets: SharedUNets) -> None:
    bundle = shared_unets["onnx", "fp16"]
    entry = bundle.manifest["components"]["unet"]
    values = given(bundle, None)
    least = sum(array.nbytes for array in values.values()) + values["sample"].nbytes  # the noise has its size
    assert entry["running_bytes"] >= entry["bytes"] + least


def test_adapters_of_another_layout_are_refused(shared_unets: SharedUNets, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    source = shared_unets["onnx", "fp32"].path
    shutil.copytree(source, folder)
    manifest = json.loads((source / "manifest.json").read_text())
    unet = manifest["components"]["unet"]
    dropped = next(tensor["name"] for tensor in unet["inputs"] if tensor["name"].startswith("adapter_"))
    unet["inputs"] = [tensor for tensor in unet["inputs"] if tensor["name"] != dropped]
    del unet["golden"]["inputs"][dropped]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="the unet's inputs for LoRAs are not its layout's"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--target", "tflite"], "unknown --target 'tflite'; valid are onnx, coreml, coreai, executorch"),
        (["--target", "onnx", "--precision", "w6"], "not in w6: ONNX Runtime multiplies by weights of 8 and of"),
        (["--target", "onnx", "--rank", "0"], "--rank is 0; valid are 1 to 512 for 2"),
        (["--target", "onnx", "--resolution", "30"], "resolution of 30 doesn't fit this base; give a multiple of 16"),
        (["--target", "onnx", "--untrained"], "--untrained is for the named bases miniature, sdxl"),
        (["--target", "onnx", "--base", "sdxl"], "the weights of sdxl are not part of this toolkit"),
        (["--target", "onnx", "--base", "nowhere"], "unknown base 'nowhere'"),
        (["--target", "onnx", "--fused", "a", "b", "c"], "--fused has 3 LoRAs; give one, or a content and a"),
        (["--target", "onnx", "--hypernet", "h"], "--hypernet merges a content and a style LoRA; give both to --fused"),
        (["--target", "onnx", "--fused", "a", "--rank", "2"], "--rank is that of adapter inputs"),
        (["--target", "onnx", "--batch", "3"], "--batch is 3; valid are 1"),
    ],
)
def test_bad_options_are_told(shallow_pipeline: Path, tmp_path: Path, extra: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        main(["unet", "--base", str(shallow_pipeline), "--out", str(tmp_path / "out"), *extra])
    assert not (tmp_path / "out").exists()


def test_a_pair_is_merged_and_fused(
    shallow_pipeline: Path, layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The oracle is lorarar.commands.merge's file, added by PEFT to the stock UNet."""
    paths = [tmp_path / f"{name}.safetensors" for name in ("content", "style", "hypernet", "merged")]
    for seed, path in enumerate(paths[:2]):
        write_lora(random_lora(layout, (2,), seed, 0.3, 0.3), path)
    widths = tuple(sorted({group.out_features for group in layout.part("qo")}))
    save_hypernet(Hypernetwork.untrained(HypernetConfig(widths, hidden=4, kv_rule="sum"), 1), paths[2])
    base = ["--base", str(shallow_pipeline)]
    pair = [str(path) for path in paths[:2]]
    chosen = [*base, "--target", "onnx", "--resolution", "32", "--out", str(tmp_path / "out")]
    assert main(["unet", *chosen, "--fused", *pair, "--hypernet", str(paths[2])]) == 0
    assert "a LoRA is fused into the weights: no adapter inputs" in capsys.readouterr().out
    assert merge_files([*pair, *base, "--method", "learned", "--hypernet", str(paths[2]), "-o", str(paths[3])]) == 0
    bundle, unet = Bundle.open(tmp_path / "out"), tiny_unet(shallow_pipeline)
    unet.load_lora_adapter(str(paths[3]), prefix="unet")
    inputs = given(bundle, None)
    assert close(run(open_runner(bundle, "unet"), inputs), with_diffusers(unet, inputs), "onnx", "fp32")


def test_the_command(shallow_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bundle"
    given = ["--base", str(shallow_pipeline), "--target", "onnx", "--rank", "2", "--batch", "2", "--resolution", "48"]
    assert main(["unet", *given, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "UNet for latents of 12×12, batch 2" in said and "2 LoRAs of rank 4 together" in said and "passed" in said
    shapes = {tensor["name"]: tensor["shape"] for tensor in Bundle.open(out).manifest["components"]["unet"]["inputs"]}
    assert shapes["sample"] == [2, 4, 12, 12] and shapes["timestep_sinusoids"][0] == 2
    (out / "merged.safetensors").write_text("mine")
    with pytest.raises(InputError, match=r"no part of its bundle \(merged.safetensors\).*give --out a new name"):
        main(["unet", *given, "--out", str(out)])
    assert (out / "merged.safetensors").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").write_text("mine")
    with pytest.raises(InputError, match="exists and is not a bundle"):
        main(["unet", *given, "--out", str(tmp_path / "other")])
