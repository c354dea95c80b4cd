"""A QNN artifact runs in a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from runtime_py.backends import open_runner
from runtime_py.bundle import Bundle
from runtime_py.golden import golden_inputs
from runtime_py.processes import ProcessRunner, start


@pytest.fixture
def bundle(bundle_folders: dict[tuple[str, str], Path]) -> Bundle:
    return Bundle.open(bundle_folders["qnn", "fp16"])


def test_a_process_that_ends_is_started_again(bundle: Bundle) -> None:
    runner, inputs = open_runner(bundle), golden_inputs(bundle.component("hypernet"))
    assert isinstance(runner, ProcessRunner)
    first = runner.run(inputs)
    runner._process.kill()
    runner._process.wait()
    again = runner.run(inputs)
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value)


def test_a_runner_that_is_let_go_leaves_no_process(bundle: Bundle) -> None:
    runner = open_runner(bundle)
    assert isinstance(runner, ProcessRunner)
    pid = runner._process.pid
    del runner
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_context_is_the_same_from_any_folder(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [4, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "graph", ends[:1], ends[1:])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    made = []
    for name in ("a", "another"):
        source, out = tmp_path / name / "model.onnx", tmp_path / f"{name}-out"
        source.parent.mkdir()
        out.mkdir()
        onnx.save(model, source)
        ran = start("export.targets.qnn_compiler", source, out, "75", "57")
        assert ran.wait() == 0
        made.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert set(made[0]) == {"model.onnx", "model_qnn.bin"} and made[0] == made[1]


def test_a_bundle_says_what_it_is_compiled_for(bundle: Bundle) -> None:
    sdk = bundle.manifest["soc"].pop("sdk")
    assert bundle.manifest["soc"] == {"name": "sm8650", "htp_arch": 75, "model": 57}
    assert sdk.count(".") == 2
