"""Export the UNet with adapter inputs, so that any merged LoRA can be given to it at run time.

    python -m export.unet --target onnx|coreml|executorch [--base miniature|sdxl|koala-700m|koala-1b|FOLDER]
                          [--untrained] [--rank R] [--precision P] [--resolution PIXELS] [--batch 1|2]
                          [--attention original|split-einsum] [--fused LORA | --fused CONTENT STYLE] [--out DIR]

Writes a bundle (manifest.json, the artifact, golden tensors) and checks it against PyTorch before it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorarar.command_line import EXIT_OK, Parser, Stopwatch, run_command
from lorarar.errors import InputError
from lorarar.files import atomic_folder

if TYPE_CHECKING:
    from export.graph import ImageSize
    from lorarar.layout import Layout
    from lorarar.lora import LoRA
    from runtime_py.check import CheckRow


@dataclass(frozen=True)
class UNetOptions:
    """What to make of a UNet. `rank` is that of one LoRA: the adapter's is twice as large."""

    target: str
    precision: str
    rank: int
    size: ImageSize
    fused: LoRA | None = None  # added into the weights; there are no adapter inputs then
    attention: str = "original"  # a key of export.forms.ATTENTION


def export_unet(
    unet: Any, layout: Layout, options: UNetOptions, out: Path, progress: Callable[[str], None] = lambda _: None
) -> list[CheckRow]:
    """Write the UNet's bundle to `out` and return its parity rows. Takes `unet` over: it is changed in place.

    Raises InputError for what is not offered and FailedCheck when the artifact is not PyTorch's equal; `out` is then
    left as it was.
    """
    from export.components import write_component
    from export.forms import check_attention, suit
    from export.graph import unet_graph
    from export.manifest import check_output, manifest, write_manifest
    from export.parity import measure
    from export.targets import find_target
    from export.tolerance import tolerance
    from lorarar.base.attach import fused

    target = find_target(options.target)
    tolerance("unet", target.name, options.precision)
    check_attention(options.attention, target.name)
    check_output(out)
    target.load()
    with fused(unet, options.fused) if options.fused else nullcontext():
        live = None if options.fused else layout
        graph = unet_graph(unet.eval().requires_grad_(False), live, options.rank, options.size)
        with atomic_folder(out) as folder:
            # Only after the golden outputs are there, so that diffusers' own form is the reference.
            entry = write_component(
                folder,
                graph,
                target,
                options.precision,
                progress,
                prepare=lambda: suit(unet, target.name, options.attention),
            )
            data = manifest(target.name, options.precision, options.rank, layout, {"unet": entry})
            write_manifest(folder, data)
            rows = measure(folder, "unet", progress)
            entry["parity"] = rows[0].parity().to_json()
            write_manifest(folder, data)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)

    from rich.console import Console

    from export.hypernet import chosen_rank
    from export.targets import find_target
    from export.tolerance import tolerance
    from lorarar.base.names import load_layout
    from lorarar.toolchains import missing_toolchain

    target = find_target(args.target)
    precision = args.precision or target.default_precision
    tolerance("unet", target.name, precision)
    rank = chosen_rank(args.base, args.rank)
    try:
        from export.forms import check_attention
    except ModuleNotFoundError as error:
        raise missing_toolchain(error.name or "torch", "train") from None
    check_attention(args.attention, target.name)
    watch, console = Stopwatch(), Console(stderr=True)
    with console.status("reading the base") as status:
        with watch.stage("load"):
            layout = load_layout(args.base)
            lora = _fused(args, layout)
            unet, size = load_unet(args, precision)
        kind = "fused" if lora else "unet"
        out = args.out or Path("build") / f"{kind}-{layout.base}-{target.name}-{precision}"
        options = UNetOptions(target.name, precision, rank, size, lora, args.attention)
        with watch.stage("export and check"):
            rows = export_unet(unet, layout, options, out, status.update)
    _report(out, rows, options, args.untrained, watch)
    return EXIT_OK


def load_unet(args: Any, precision: str) -> tuple[Any, ImageSize]:
    """The UNet of --base and --untrained, and the size that --resolution and --batch give it. Needs torch."""
    import torch

    from export.graph import ImageSize
    from lorarar.base.sources import image_side, open_unet

    # Random weights are as good in half precision, which is half of the memory.
    half = torch.float16 if args.untrained and precision != "fp32" else None
    unet, scale = open_unet(args.base, args.untrained, half)
    pixels = image_side(unet, scale, args.resolution)
    return unet, ImageSize(pixels, pixels // scale, args.batch)


def _parse(argv: Sequence[str] | None) -> Any:
    from lorarar.base.names import BASES_HELP, DEFAULT_BASE
    from lorarar.training.settings import defaults_text

    parser = Parser(prog="python -m export.unet", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--target", required=True, help="onnx, coreml or executorch")
    add("--base", default=DEFAULT_BASE, help=BASES_HELP)
    add("--untrained", action="store_true", help="a named base with seeded random weights, to try its size out")
    add("--rank", type=int, help=f"largest rank of a LoRA {defaults_text('rank')}")
    add("--precision", help="fp32, fp16, w8, w6 or w4, as the target has them (default: fp16 for coreml, else fp32)")
    add("--resolution", type=int, metavar="PIXELS", help="side of the image (default: the base's own)")
    add("--batch", type=int, choices=(1, 2), default=1, help="2: with guidance, both prompts in one run (default 1)")
    add(
        "--fused",
        type=Path,
        nargs="+",
        metavar="LORA",
        help="instead of adapter inputs, add into the weights this LoRA, or a content and a style LoRA merged",
    )
    add("--attention", default="original", help="split-einsum: coreml's, in the form for the Neural Engine")
    add("--checkpoint", type=Path, metavar="FILE", help="the hypernetwork that merges the two (default: miniature's)")
    add("--out", type=Path, metavar="DIR", help="the bundle (default build/unet-BASE-TARGET-PRECISION)")
    return parser.parse_args(argv)


def _fused(args: Any, layout: Layout) -> LoRA | None:
    """The LoRA to add into the weights: the one that is given, or the merge of the two."""
    from export.hypernet import chosen_checkpoint, load_source
    from lorarar.lora import read_lora
    from lorarar.merging import learned_options, merge_loras

    paths = args.fused or []
    if len(paths) > 2:
        raise InputError(f"--fused has {len(paths)} files; give one LoRA, or a content and a style LoRA")
    if args.checkpoint is not None and len(paths) != 2:
        raise InputError("--checkpoint is for merging a pair; give --fused CONTENT STYLE, or leave it out")
    loras = [read_lora(path) for path in paths]
    if len(loras) < 2:
        return loras[0] if loras else None
    checkpoint = chosen_checkpoint(args.base, args.checkpoint, False)
    if checkpoint is None:
        raise InputError("merging a pair needs a trained hypernetwork; give --checkpoint FILE")
    loaded = load_source(checkpoint, False, layout)
    return merge_loras(loras[0], loras[1], layout, "learned", learned_options(loaded.hypernet)).lora


def _report(out: Path, rows: list[CheckRow], options: UNetOptions, untrained: bool, watch: Stopwatch) -> None:
    from runtime_py.bundle import Bundle
    from runtime_py.check import print_table

    bundle = Bundle.open(out)
    side, batch = options.size.pixels, options.size.batch
    print(f"UNet for images of {side}×{side} pixels, batch {batch}")
    if options.fused:
        print("a LoRA is fused into the weights: no adapter inputs")
    else:
        print(f"adapters of rank {2 * options.rank}: two LoRAs of rank {options.rank}, shorter ones padded with zeros")
    if untrained:
        print("the base is UNTRAINED: random weights, which draw nothing")
    print_table(bundle, rows)
    print(f"{out} ({bundle.manifest['components']['unet']['bytes'] / 2**20:.1f} MB), {watch}")


if __name__ == "__main__":
    run_command(main)
