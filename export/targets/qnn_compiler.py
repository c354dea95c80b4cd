"""Compile an ONNX graph into a context for one NPU: run as a process, `python -m export.targets.qnn_compiler`."""

from __future__ import annotations

import sys
from pathlib import Path

from runtime_py.qnn_session import CONTEXT, MODEL, open_session


def main(model: str, out: str, htp_arch: str, soc_model: str) -> None:
    """Compile `model` into the folder `out`."""
    provider = {
        "htp_arch": htp_arch,
        "soc_model": soc_model,
        "enable_htp_fp16_precision": "1",
        # Fast preparation: KOALA-700M's UNet takes a ninth of the time, and is 0.3 % smaller.
        "htp_graph_finalization_optimization_mode": "1",
        "offload_graph_io_quantization": "0",  # else a part of the graph would be the CPU's
    }
    entries = {"ep.context_enable": "1", "ep.context_embed_mode": "0", "ep.context_file_path": str(Path(out) / MODEL)}
    open_session(Path(model), provider, entries)
    (binary,) = (path for path in Path(out).iterdir() if path.suffix == ".bin")
    assert binary.name == CONTEXT, binary.name


if __name__ == "__main__":
    main(*sys.argv[1:])
