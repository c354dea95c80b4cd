"""What ONNX Runtime holds in memory for large weights of half precision."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def peak_of_a_run(folder: Path, limit: int) -> int:
    """Bytes that a process holds at most while it runs 24 products of 4.7 MB of fp16 weights each."""
    model = folder / "m.onnx"
    code = """
import sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from benchmarks.processes import peak_bytes
from runtime_py.backends import onnx as backend
backend.WIDEN_AT_LOAD = int(sys.argv[2])
file = Path(sys.argv[1])
def spec(name):
    return SimpleNamespace(name=name, dtype=np.dtype(np.float16), shape=(1, 1536))
tensors = {"inputs": [spec("x0")], "outputs": [spec("x24")]}
part = SimpleNamespace(name="unet", onnx_model=file, entry={"bytes": 10**8}, is_half=True, **tensors)
session = backend.OnnxRunner(part, 1)
session.session.run(None, {"x0": np.zeros((1, 1536), np.float16)})
print(peak_bytes())
"""
    done = subprocess.run([sys.executable, "-c", code, str(model), str(limit)], capture_output=True, check=True)
    return int(done.stdout)


def test_large_weights_of_half_precision_are_in_memory_once(tmp_path: Path) -> None:
    side, layers = 1536, 24
    names = [f"x{i}" for i in range(layers + 1)]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(layers)]
    weights = [numpy_helper.from_array(np.full((side, side), i, np.float16), f"w{i}") for i in range(layers)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1, side]) for name in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    onnx.save(model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="w.bin")
    stored = side * side * 2 * layers
    widened, narrow = peak_of_a_run(tmp_path, 10**9), peak_of_a_run(tmp_path, 10**7)
    # 4 bytes a weight against the 2 that are mapped from the file.
    assert widened - narrow > 0.9 * stored, (widened, narrow)
