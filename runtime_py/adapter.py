"""Save a LoRA as an `.onnx_adapter`, which ONNX Runtime maps into memory and gives to the merger.

lorarar adapter BUNDLE LORA --role content|style -o content.onnx_adapter
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorarar.command_line import EXIT_OK, Parser, run_command
from lorarar.errors import InputError
from lorarar.toolchains import missing_toolchain


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="lorarar adapter", description=__doc__.split("\n\n")[0])
    parser.add_argument("bundle", type=Path, help="a bundle of --target onnx")
    parser.add_argument("lora", type=Path, help="the LoRA file or folder")
    parser.add_argument("--role", required=True, choices=("content", "style"), help="which of the merger's inputs")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the .onnx_adapter file")
    options = parser.parse_args(argv)

    from lorarar.lora import read_lora
    from runtime_py.bundle import Bundle
    from runtime_py.merge import merger_inputs

    bundle = Bundle.open(options.bundle)
    if bundle.manifest["target"] != "onnx":
        raise InputError(
            f"{options.bundle} is for {bundle.manifest['target']}; only onnx bundles take .onnx_adapter files"
        )
    try:
        from runtime_py.backends.onnx import save_adapter
    except ImportError:
        raise missing_toolchain("onnxruntime", "onnx") from None
    tensors, packed = merger_inputs(bundle, options.role, read_lora(options.lora))
    if warning := packed.warning():
        print(f"warning: {warning}")
    save_adapter(tensors, options.output)
    print(f"{options.output} ({options.output.stat().st_size / 2**20:.1f} MB, {options.role})")
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
