"""Run a Core AI program: `python -m runtime_py.coreai_worker ASSET`, asked by `runtime_py.processes`.

On Linux a program is lowered into a temporary folder first, which takes the room of its weights.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lorarar.toolchains import import_coreai
from runtime_py.processes import Model, serve

_PRODUCT = "coreai.decomposable.broadcasting_batch_matmul"
_ENTRY = "main"


def open_model(path: Path) -> Model:
    """Load a program, as Apple's `executable` does but for its products; the file itself is not touched."""
    import_coreai()
    from coreai.runtime import AIModel, NDArray

    if sys.platform == "darwin":
        model = asyncio.run(AIModel.load(path))
    else:
        with tempfile.TemporaryDirectory(prefix="lorarar-", suffix=".aimodelx") as name:
            folder = Path(name)
            free, needed = shutil.disk_usage(folder).free, sum(file.stat().st_size for file in path.iterdir())
            if free < needed:
                raise OSError(
                    f"it is lowered into {folder.parent}, which has {free / 1e9:.1f} GB of the {needed / 1e9:.1f} GB "
                    "that this takes; free some, or set TMPDIR to another folder"
                )
            lower(path, folder)
            model = asyncio.run(AIModel.load(folder))  # which maps its files, so that their names can go
    function = model.load_function(_ENTRY)

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {key: NDArray(value) for key, value in inputs.items()}
        outputs = asyncio.run(function(given))
        return {key: np.array(value.numpy()) for key, value in outputs.items()}

    about = function.desc
    inputs = {name: about.input_descriptor(name).shape for name in about.input_names}
    return Model(run, inputs, {name: about.output_descriptor(name).shape for name in about.output_names})


def lower(asset: Path, folder: Path) -> None:
    """Compile an .aimodel for Linux's interpreter into a folder."""
    from coreai.authoring.asset import (
        Context,
        compile_to_binary,
        load_module_from_bytecode,
        serialize_module_to_odix,
    )

    module = load_module_from_bytecode(context=Context()._mlir_context, path=asset / "main.mlirb")
    _widen(module)
    compile_to_binary(module=module, output_directory=folder, enable_debug_info=False)
    serialize_module_to_odix(module=module, path=folder / "main-universal.odix")


def _widen(module: Any) -> None:
    """Let the products of fp16 numbers be computed in fp32, and their results rounded."""
    from coreai._compiler.dialects import _coreai_ops_gen as ops
    from coreai._compiler.ir import F16Type, F32Type, InsertionPoint, Location, RankedTensorType

    with module.context, Location.unknown(module.context):
        half, single = F16Type.get(), F32Type.get()
        for operation in [each for each in _operations(module.body) if each.name == _PRODUCT]:
            kind = RankedTensorType(operation.results[0].type)
            if kind.element_type != half:
                continue
            with InsertionPoint(operation):
                wide = [
                    ops.cast(RankedTensorType.get(RankedTensorType(value.type).shape, single), value)
                    for value in operation.operands
                ]
                product = ops.BroadcastingBatchMatmul(*wide, results=[RankedTensorType.get(kind.shape, single)])
                operation.results[0].replace_all_uses_with(ops.cast(kind, product.operation.results[0]))
            operation.erase()


def _operations(block: Any) -> Iterator[Any]:
    """Yield every operation of a block and of the blocks in it."""
    for operation in list(block.operations):
        yield operation.operation
        for region in operation.regions:
            for inner in region.blocks:
                yield from _operations(inner)


if __name__ == "__main__":
    serve(open_model, *sys.argv[1:])
