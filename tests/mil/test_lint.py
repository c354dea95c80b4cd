"""What of a Core ML program would leave the Neural Engine: one program for each rule, and one that breaks none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mil_builder import mb, save

from lorarar.commands.lint import main
from lorarar.errors import InputError
from runtime_py import lint
from runtime_py.lint import RULES, lint_package
from runtime_py.mil.package import Package

HALF = np.float16


def rules_of(path: Path) -> dict[str, int]:
    return {finding.rule: finding.count for finding in lint_package(Package.open(path))}


def convolved(x: Any) -> Any:
    return mb.conv(x=x, weight=np.ones((64, 64, 1, 1), HALF), name="y")


BROKEN: dict[str, tuple[Callable[..., Any], dict[str, np.ndarray], int]] = {
    "axis": (lambda x: mb.relu(x=mb.reshape(x=x, shape=(1, 1, 1, 16_385))), {"x": np.zeros((16_385, 1), HALF)}, 3),
    "axes": (lambda x: mb.relu(x=x), {"x": np.zeros((1, 2, 2, 2, 2), HALF)}, 1),
    "type": (lambda x: mb.relu(x=x), {"x": np.zeros((1, 4), np.float32)}, 1),
    "linear": (lambda x: mb.linear(x=x, weight=np.ones((8, 4), HALF)), {"x": np.zeros((2, 4), HALF)}, 1),
    "inner": (lambda x, y: mb.matmul(x=x, y=y), {"x": np.zeros((4, 33), HALF), "y": np.zeros((33, 4), HALF)}, 1),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_program_that_breaks_one_rule_is_told_of_that_one(rule: str, tmp_path: Path) -> None:
    build, inputs, most = BROKEN[rule]
    found = rules_of(save(tmp_path / "p.mlpackage", build, inputs))
    assert set(found) == {rule} and 1 <= found[rule] <= most


def test_operations_that_nobody_knows_are_told(tmp_path: Path) -> None:
    package = Package.open(save(tmp_path / "p.mlpackage", lambda x: mb.relu(x=x), {"x": np.zeros((1, 4), HALF)}))
    (function,) = package.parts[0].mlProgram.functions.values()
    function.block_specializations[function.opset].operations[-1].type = "custom_layer"
    with pytest.raises(InputError, match="operations that this evaluator does not know: custom_layer"):
        lint_package(package)


def test_a_compressed_weight_is_a_constant_too(tmp_path: Path) -> None:
    """A product with one is a linear, and a table of tokens may be as long as it was without compression."""

    def stored(rows: int) -> Any:
        data = np.ones((rows, 32), np.int8)
        return mb.constexpr_affine_dequantize(quantized_data=data, zero_point=np.int8(0), scale=HALF(1), axis=0)

    product = save(tmp_path / "a.mlpackage", lambda x: mb.matmul(x=x, y=stored(5)), {"x": np.zeros((4, 5), HALF)})
    assert rules_of(product) == {"linear": 1}
    given = {"x": np.zeros((4,), np.int32)}
    table = save(tmp_path / "b.mlpackage", lambda x: mb.gather(x=stored(20_000), indices=x, axis=0), given)
    assert rules_of(table) == {}


def test_products_with_a_factor_turned_and_with_constants(tmp_path: Path) -> None:
    """The inner size is the one that is summed over; a product with a constant is a linear in other words."""
    given = {"x": np.zeros((32, 5), HALF), "y": np.zeros((32, 4), HALF)}
    turned = save(tmp_path / "a.mlpackage", lambda x, y: mb.matmul(x=x, y=y, transpose_x=True), given)
    assert rules_of(turned) == {}
    constant = save(
        tmp_path / "b.mlpackage", lambda x: mb.matmul(x=x, y=np.ones((5, 3), HALF)), {"x": np.zeros((32, 5), HALF)}
    )
    assert rules_of(constant) == {"linear": 1}


def test_products_of_vectors_and_of_open_ranks(tmp_path: Path) -> None:
    given = {"x": np.zeros((32, 5), HALF), "y": np.zeros((32, 4), HALF)}
    package = Package.open(
        save(tmp_path / "a.mlpackage", lambda x, y: mb.matmul(x=x, y=y, transpose_x=True, name="z"), given)
    )
    for size, rules in ((33, ["inner"]), (32, []), (None, [])):
        (function,) = package.parts[0].mlProgram.functions.values()
        kind = function.inputs[0].type.tensorType
        del kind.dimensions[:]
        kind.rank = -1 if size is None else 1
        if size is None:
            kind.dimensions.add().unknown.variadic = True
        else:
            kind.dimensions.add().constant.size = size
        assert [finding.rule for finding in lint_package(package)] == rules


def test_features_and_weights_have_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "p.mlpackage", convolved, {"x": np.zeros((1, 64, 4, 4), HALF)})
    assert rules_of(path) == {}
    monkeypatch.setattr(lint, "MOST_FEATURES", 1)
    monkeypatch.setattr(lint, "NEURAL_ENGINE_BYTES", 8191)
    assert rules_of(path) == {"features": 1, "memory": 1}
    monkeypatch.setattr(lint, "MOST_FEATURES", 2)
    monkeypatch.setattr(lint, "NEURAL_ENGINE_BYTES", 8192)
    assert rules_of(path) == {}


def test_every_rule_has_a_program_here() -> None:
    assert {*BROKEN, "features", "memory"} == set(RULES)


def test_the_command_says_what_is_wanted_and_who_says_so(
    bundle_folders: dict[tuple[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([str(bundle_folders["coreml", "fp16"])])
    shown = " ".join(capsys.readouterr().out.split())
    # The hypernetwork adds up in fp32, on purpose.
    assert code == 1 and "fp16" in shown and "says" in shown
    with pytest.raises(InputError, match="export a bundle for coreml"):
        main([str(bundle_folders["onnx", "fp32"])])
