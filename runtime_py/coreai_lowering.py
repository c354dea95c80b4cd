"""Lower a Core AI program for Linux: run as a process, `python -m runtime_py.coreai_lowering ASSET FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PRODUCT = "coreai.decomposable.broadcasting_batch_matmul"


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
    lower(*map(Path, sys.argv[1:]))
