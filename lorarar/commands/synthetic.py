"""Synthetic LoRAs of a base's full size, for trying the toolkit out where no trained ones are at hand.

    lorarar synthetic --base koala-700m --rank 16 --seed 1 --dialect kohya -o content.safetensors

They are random numbers with a decaying spectrum: they load everywhere and mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from lorarar.command_line import EXIT_OK, Parser, run_command
from lorarar.errors import InputError
from lorarar.layout import UNET, Layout
from lorarar.lora.types import LoRA, LoraLayer

DEFAULT_RANK = 16


def synthetic_lora(layout: Layout, rank: int = DEFAULT_RANK, seed: int = 0, strength: float = 1.0) -> LoRA:
    """A LoRA with every attention linear of `layout`. `strength` is the standard deviation of ΔW's entries in the
    middle layer; it rises towards the last layers, as differences between blocks show in trained LoRAs too.
    """
    modules = [(module, group) for group in layout.groups for module in group.modules]
    generator = np.random.default_rng(seed)
    layers = {}
    for position, (module, group) in enumerate(modules):
        share = (position + 0.5) / len(modules)
        layers[UNET + module] = _layer(generator, rank, group.out_features, group.in_features, strength * 2 * share)
    return LoRA(layers, source=f"synthetic, seed {seed}")


def _layer(generator: np.random.Generator, rank: int, out: int, inp: int, strength: float) -> LoraLayer:
    # Component k has weight 1/k, as trained factors concentrate on a few directions.
    decay = (1 / np.arange(1, rank + 1)).astype(np.float32)
    scale = np.float32(np.sqrt(strength) / np.sqrt(np.sum(decay**2)) ** 0.5)
    down = generator.standard_normal((rank, inp), np.float32) * scale
    up: Float32[np.ndarray, "out rank"] = generator.standard_normal((out, rank), np.float32) * scale * decay
    return LoraLayer(down, up)


def main(argv: Sequence[str] | None = None) -> int:
    from lorarar.base.names import BASES_HELP, DEFAULT_BASE, load_layout
    from lorarar.lora import write_lora

    parser = Parser(prog="lorarar synthetic", description=__doc__.split("\n\n")[0])
    parser.add_argument("--base", default=DEFAULT_BASE, help=BASES_HELP)
    parser.add_argument("--rank", type=int, default=DEFAULT_RANK, help="rank of every layer (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random numbers (default %(default)s)")
    parser.add_argument("--strength", type=float, default=1.0, help="standard deviation of ΔW (default %(default)s)")
    parser.add_argument("--dialect", default="peft", help="peft or kohya (default %(default)s)")
    parser.add_argument("--dtype", default="fp16", help="fp32, fp16 or bf16 (default %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the .safetensors file")
    options = parser.parse_args(argv)
    if options.rank < 1 or not np.isfinite(options.strength) or options.strength < 0 or options.seed < 0:
        raise InputError("--rank must be 1 or more, --seed and --strength 0 or more")
    lora = synthetic_lora(load_layout(options.base), options.rank, options.seed, options.strength)
    write_lora(lora, options.output, dialect=options.dialect, dtype=options.dtype)
    print(f"{options.output}: {len(lora.layers)} layers of rank {options.rank}, {options.dialect}, random numbers")
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
