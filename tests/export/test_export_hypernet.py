"""The exported hypernetwork against the dense form of Eq. 2 in float64, for every target and precision."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from shared_bundles import require_target
from tiny_world import COMBINATIONS, dense_reference, random_lora, tiny_hypernet

from export.options import HypernetOptions
from export.targets import TARGETS, find_target
from export.write import write_hypernet
from lorarar.commands.export import main
from lorarar.errors import FailedCheck, InputError
from lorarar.hypernet.checkpoints import LoadedPredictor, open_predictor, save_hypernet
from lorarar.hypernet.columns import layout_columns
from lorarar.hypernet.graph import ConstantGraph, coefficient_graph
from lorarar.hypernet.network import ConstantCoefficients, ConstantConfig, HypernetConfig, Hypernetwork
from lorarar.layout import ROLES, Layout
from lorarar.lora import LoRA
from lorarar.merging import learned_options, merge_loras
from runtime_py.bundle import Bundle
from runtime_py.hashes import tree_sha256
from runtime_py.mil import Program
from runtime_py.session import Session


@pytest.fixture(scope="module")
def sessions(bundle_folders: dict[tuple[str, str], Path]) -> dict[tuple[str, str], Session]:
    class Sessions(dict[tuple[str, str], Session]):
        def __missing__(self, key: tuple[str, str]) -> Session:
            self[key] = Bundle.open(bundle_folders[key]).session(keep=True)
            return self[key]

    return Sessions()


def merged(session: Session, content: LoRA, style: LoRA, strengths: tuple[float, float]) -> LoRA:
    session.load([content, style])
    session.merge("learned", strengths=strengths)
    return session.merged().lora


ranks = st.lists(st.sampled_from([1, 2, 5, 16, 128]), min_size=1, max_size=3).map(tuple)
# Products of the two scales reach from 1e-16 to 1e8.
scales = st.sampled_from([0.0, 1e-8, 1e-4, 1e-2, 1.0, 1e2, 1e4])


@pytest.mark.parametrize(("target", "precision"), [key for key in COMBINATIONS if key[1] == "fp32"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example((1,), (1,), 1.0, 1e4, 3875, (1.0, 1.0))  # terms that cancel, see conftest.largest
@example((1,), (1,), 1.0, 1e4, 519, (1.0, 1.0))
@given(ranks, ranks, scales, scales, st.integers(0, 2**16), st.sampled_from([(1.0, 1.0), (0.5, 1.25), (0.0, 1.0)]))
def test_in_fp32_a_merge_equals_dense_eq_2(
    layout: Layout,
    sessions: dict[tuple[str, str], Session],
    target: str,
    precision: str,
    content_ranks: tuple[int, ...],
    style_ranks: tuple[int, ...],
    up_scale: float,
    down_scale: float,
    seed: int,
    strengths: tuple[float, float],
) -> None:
    content = random_lora(layout, content_ranks, seed, up_scale, down_scale)
    style = random_lora(layout, style_ranks, seed + 1, 1.0, 0.1)
    found = merged(sessions[target, precision], content, style, strengths)
    reference = dense_reference(layout, content, style, strengths)
    allowed = find_target(target).require("hypernet", precision).max_error
    for name, expected in reference.items():
        error = np.abs(found.layers[name].delta() - expected.delta).max()
        assert error <= allowed * expected.largest, name


@pytest.mark.parametrize(("target", "precision"), [key for key in COMBINATIONS if key[1] == "fp16"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example((1,), (1,), 1e-2, 1e4, 1381)  # terms that cancel, see conftest.largest
@given(ranks, ranks, scales, scales, st.integers(0, 2**16))
def test_in_fp16_a_merge_equals_dense_eq_2_or_refuses(
    layout: Layout,
    sessions: dict[tuple[str, str], Session],
    target: str,
    precision: str,
    content_ranks: tuple[int, ...],
    style_ranks: tuple[int, ...],
    up_scale: float,
    down_scale: float,
    seed: int,
) -> None:
    content = random_lora(layout, content_ranks, seed, up_scale, down_scale)
    style = random_lora(layout, style_ranks, seed + 1, 0.3, 0.1)
    try:
        found = merged(sessions[target, precision], content, style, (1.0, 1.0))
    except InputError as error:
        # Only what half precision can't hold may be refused, and the sentence says so.
        assert up_scale * down_scale >= 1e2
        assert "use fp32" in str(error)
        return
    reference = dense_reference(layout, content, style, (1.0, 1.0))
    allowed = find_target(target).require("hypernet", precision)
    for name, expected in reference.items():
        rms = np.sqrt(np.mean(np.square(found.layers[name].delta() - expected.delta)))
        assert rms <= expected.largest * 10 ** (-allowed.psnr_db / 20), name


def test_core_ml_computes_a_hypernetwork_in_fp32_between_inputs_and_outputs_in_fp16(
    layout: Layout, tmp_path: Path
) -> None:
    report = write_hypernet(tiny_hypernet(), layout, HypernetOptions("coreml", "fp16", 4), tmp_path / "out")
    program = Program.open(tmp_path / "out" / "hypernet.mlpackage")
    ends = len(report.manifest["components"]["hypernet"]["inputs"]) + len(layout.part("qo"))
    assert program.op_counts()["cast"] == ends
    # In fp16 it is 88 dB; the outputs' rounding is the reference's too.
    assert next(row.psnr_db for row in report.rows if row.runtime == "mil evaluator (fp32)") > 120


@pytest.mark.parametrize(("target", "precision"), COMBINATIONS)
def test_a_bundle_states_its_contract(
    layout: Layout, bundle_folders: dict[tuple[str, str], Path], target: str, precision: str
) -> None:
    manifest = json.loads((bundle_folders[target, precision] / "manifest.json").read_text())
    entry = manifest["components"]["hypernet"]
    learned = layout.part("qo")
    factors = [name for group in learned for name in (group.down, group.up)]
    assert [tensor["name"] for tensor in entry["inputs"]] == [ROLES, *factors]
    assert [tensor["name"] for tensor in entry["outputs"]] == [group.coefficients for group in learned]
    assert {tensor["dtype"] for tensor in entry["inputs"]} == {{"fp32": "float32", "fp16": "float16"}[precision]}
    assert entry["parity"]["status"] == "passed"
    assert manifest["hypernetwork"] == {
        "source": "untrained, seed 3",
        "trained": False,
        "learned": ["q", "out"],
        "kv_rule": "average",
        "sha256": tiny_hypernet().sha256,
    }
    assert Layout.from_json("tiny", manifest["layout"]) == layout


@pytest.mark.full
def test_the_same_input_gives_the_same_bytes(
    layout: Layout, bundle_folders: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    """Exported again in another process, whose hashes and maps have another order."""
    for target in TARGETS:
        require_target(target)
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests/support')\n"
        "from tiny_world import BUNDLE_RANK, soc_of, tiny_hypernet, tiny_layout\n"
        "from export.options import HypernetOptions\nfrom export.write import write_hypernet\n"
        "from export.targets import TARGETS\n"
        "for name, target in TARGETS.items():\n"
        "    options = HypernetOptions(name, target.default_precision, BUNDLE_RANK, soc=soc_of(name))\n"
        "    write_hypernet(tiny_hypernet(), tiny_layout(), options, Path(sys.argv[1]) / name)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, env=environment)
    for target in TARGETS.values():
        first = bundle_folders[target.name, target.default_precision]
        assert tree_sha256(tmp_path / target.name) == tree_sha256(first), target.name


def test_every_precision_of_the_hypernetwork_is_tested() -> None:
    offered = {(name, precision) for name, target in TARGETS.items() for precision in target.tolerances["hypernet"]}
    assert offered == set(COMBINATIONS)


def test_a_wrong_artifact_is_an_error_and_leaves_nothing(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export.targets import onnx_converter

    honest = onnx_converter.convert

    def tampered(graph: object, precision: str, path: Path) -> None:
        weight = graph.module.hypernet.output.weight  # type: ignore[attr-defined]
        weight.data[0] *= 1 + 1e-3
        honest(graph, precision, path)  # type: ignore[arg-type]

    monkeypatch.setattr(onnx_converter, "convert", tampered)
    with pytest.raises(FailedCheck, match=r"differs by .* of its largest value.*no bundle was written"):
        write_hypernet(tiny_hypernet(), layout, HypernetOptions("onnx", "fp32", 4), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--target", "tflite", "--untrained"],
            "unknown --target 'tflite'; valid are onnx, coreml, coreai, executorch",
        ),
        (["--target", "onnx", "--base", "koala-700m"], "a hypernetwork for koala-700m is needed: give --hypernet"),
        (["--target", "onnx", "--untrained", "--hypernet", "x"], "--hypernet and --untrained exclude each other"),
        (["--target", "onnx", "--untrained", "--base", "nowhere"], "unknown base 'nowhere': no such folder or file"),
        (["--target", "onnx", "--hypernet", "no.safetensors"], "no such checkpoint"),
        (["--target", "onnx", "--untrained", "--rank", "0"], "--rank is 0; valid are 1 to 512 for 2 LoRAs"),
        (
            ["--target", "onnx", "--untrained", "--rank", "256", "--loras", "5"],
            "--rank is 256; valid are 1 to 204 for 5",
        ),
        (["--target", "onnx", "--untrained", "--loras", "1"], "--loras is 1; valid are 2 to 8"),
        (
            ["--target", "executorch", "--untrained", "--precision", "w8"],
            "offers the hypernet in fp32, fp16, not in w8",
        ),
    ],
)
def test_bad_options_are_one_sentence(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        main(["hypernet", *arguments, "--out", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


def test_half_precision_leaves_the_callers_network_as_it_was(layout: Layout, tmp_path: Path) -> None:
    loaded = tiny_hypernet()
    write_hypernet(loaded, layout, HypernetOptions("onnx", "fp16", 4), tmp_path / "out")
    assert {name: (t.dtype, t.tolist()) for name, t in loaded.predictor.state_dict().items()} == {
        name: (t.dtype, t.tolist()) for name, t in tiny_hypernet().predictor.state_dict().items()
    }


def test_products_are_in_fp32_where_adapters_are_in_fp16(bundle_folders: dict[tuple[str, str], Path]) -> None:
    """Cores with half precision would add up in it; tests/test_devices.py runs this on one."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(bundle_folders["onnx", "fp16"] / "hypernet.onnx")).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    types |= {weight.name: weight.data_type for weight in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    assert products and {types[name] for node in products for name in node.input} == {onnx.TensorProto.FLOAT}
    assert {value.type.tensor_type.elem_type for value in graph.output} == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("learned", [("q",), ("k", "v"), ("q", "k", "v", "out")])
def test_any_kinds_can_be_learned(layout: Layout, tmp_path: Path, learned: tuple[str, ...]) -> None:
    """Rows of the paper's Table A3: what merges here as it does in lorarar.merging, which has its own oracle."""
    config = HypernetConfig(widths=(32, 64), hidden=16, learned=learned, kv_rule="sum")
    loaded = open_predictor("tiny", layout, Hypernetwork.untrained(config, seed=5).eval())
    assert_merges_as_the_library(loaded, layout, "onnx", tmp_path / "out")


@pytest.mark.parametrize("target", [name for name, target in TARGETS.items() if "fp32" in target.precisions])
def test_a_network_that_knows_its_layers_and_columns_is_a_bundle_too(
    layout: Layout, tmp_path: Path, target: str
) -> None:
    columns = layout_columns(layout, ("q", "v"))
    config = HypernetConfig((32, 64), 8, "sum", ("q", "v"), tuple(name for name, _ in columns), columns)
    network = Hypernetwork.untrained(config, seed=1).eval()
    for values in (network.positions, *network.columns.parameters()):
        torch.nn.init.normal_(values, generator=torch.Generator().manual_seed(2))
    assert_merges_as_the_library(open_predictor("tiny", layout, network), layout, target, tmp_path / "bundle")


@pytest.mark.parametrize("target", [name for name, target in TARGETS.items() if "fp32" in target.precisions])
@pytest.mark.parametrize("of", ["kinds", "columns"])
def test_constant_coefficients_are_a_bundle_too(layout: Layout, tmp_path: Path, target: str, of: str) -> None:
    columns = layout_columns(layout, ("q", "k")) if of == "columns" else ()
    constants = ConstantCoefficients(ConstantConfig("sum", ("q", "k"), columns))
    for number, pair in enumerate(constants.pairs.values()):
        pair.data = torch.tensor([0.3 + number, 1.2 - number])
    for values in constants.columns.parameters():
        torch.nn.init.normal_(values, generator=torch.Generator().manual_seed(2))
    save_hypernet(constants, tmp_path / "constants.safetensors")
    loaded = open_predictor("tiny", layout, tmp_path / "constants.safetensors")
    assert_merges_as_the_library(loaded, layout, target, tmp_path / "out")
    graph = coefficient_graph(loaded.predictor, layout)
    assert isinstance(graph, ConstantGraph)
    kept = sum(values.numel() for values in graph.pairs.values())
    modules = [(module, group.in_features) for group in layout.with_kinds(("q", "k")) for module in group.modules]
    assert kept == sum(2 * (inputs if of == "columns" else 1) for _, inputs in modules)


def assert_merges_as_the_library(loaded: LoadedPredictor, layout: Layout, target: str, out: Path) -> None:
    write_hypernet(loaded, layout, HypernetOptions(target, "fp32", 4), out)
    content, style = random_lora(layout, (4, 2), 1), random_lora(layout, (3,), 2)
    found = merged(Bundle.open(out).session(), content, style, (0.9, 1.1))
    options = learned_options(loaded.predictor, content_scale=0.9, style_scale=1.1)
    for name, layer in merge_loras(content, style, layout, "learned", options).lora.layers.items():
        delta = layer.delta()
        np.testing.assert_allclose(found.layers[name].delta(), delta, rtol=0, atol=1e-5 * np.abs(delta).max())


@pytest.mark.parametrize("target", ["onnx", "executorch", "coreai", pytest.param("coreml", marks=pytest.mark.full)])
def test_three_loras_are_merged_as_two_and_the_third_is_added(layout: Layout, tmp_path: Path, target: str) -> None:
    options = HypernetOptions(target, "fp32", 4, loras=3)
    write_hypernet(tiny_hypernet(), layout, options, tmp_path / "out")
    content, style, third = (random_lora(layout, (4, 2), seed) for seed in (1, 2, 3))
    session = Bundle.open(tmp_path / "out").session()
    session.load([content, style, third])
    session.merge(strengths=(0.9, 1.1, -0.5))
    reference = dense_reference(layout, content, style, (0.9, 1.1))
    for name, layer in session.merged().lora.layers.items():
        wanted = reference[name].delta - 0.5 * third.layers[name].delta()
        np.testing.assert_allclose(layer.delta(), wanted, rtol=0, atol=2e-5 * reference[name].largest)


def test_a_folder_that_is_no_bundle_is_not_overwritten(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"photo")
    with pytest.raises(InputError, match="is not a bundle; it is not overwritten"):
        write_hypernet(tiny_hypernet(), layout, HypernetOptions("onnx", "fp32", 4), tmp_path)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"photo"


def test_a_checkpoint_of_other_widths_is_refused(tmp_path: Path) -> None:
    other = Layout.from_linears("other", [("a.to_q", 96, 96), ("a.to_k", 96, 96)])
    with pytest.raises(InputError, match="no input layer for width 96, only for 32, 64"):
        write_hypernet(tiny_hypernet(), other, HypernetOptions("onnx", "fp32", 4), tmp_path / "out")
