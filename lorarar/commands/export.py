"""Export a hypernetwork, a UNet or a whole pipeline as a bundle for phones, checked against PyTorch."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from export.options import ADAPTED, LORAS, PIPELINE_BATCH, STEPS, UNET_BATCH
from export.targets import TARGETS, bundle_folder, default_targets, find_offer, find_target
from lorarar.base.names import CONFIGS, DEFAULT_BASE, MINIATURE, MINIATURE_SAMPLING, PAPER_SAMPLING
from lorarar.command_line import EXIT_OK, Parser, Stopwatch, main_of, run_command
from lorarar.console import console, print_table, status
from lorarar.errors import InputError
from lorarar.layout import ADAPT, MAX_STACKED_RANK, Layout, kind_of
from lorarar.stack import PART_WORDS
from lorarar.toolchains import TRAINING, named_if_missing
from lorarar.training.settings import defaults_text
from runtime_py.bundle import Bundle
from runtime_py.check import check_table

_KINDS = {
    "hypernet": "the hypernetwork, as one artifact: LoRAs in, coefficients of their merge out",
    "unet": "the UNet with inputs for LoRAs and their coefficients, or with a LoRA fused into its weights",
    "pipeline": "all that makes images from text with any two LoRAs, as one bundle",
}
_PRECISIONS = ", ".join(f"{target.default_precision} for {name}" for name, target in TARGETS.items())
_OWN = ("kind", "base", "into", "plan")
"""Options that are no keywords of the library's function; all others are, by the same names."""


def parser() -> Parser:
    """Return the command's parser, with one of its own for each thing that can be exported."""
    made = Parser(prog="lorarar export", description=__doc__)
    made.set_defaults(vae_precision=None, into=None, plan=None)
    kinds = made.add_subparsers(dest="kind", required=True, metavar="WHAT", parser_class=Parser)
    for name, about in _KINDS.items():
        _add_options(kinds.add_parser(name, help=about, description=f"Export {about}."), name)
    return made


def _add_options(kind: Parser, name: str) -> None:
    """Add the options of a kind of export; none has a value where it is not given, but for the base."""
    add = kind.add_argument
    needed = name != "pipeline"  # which --into may stand for
    add("--target", required=needed, help=", ".join(TARGETS) + ("" if needed else " (default: those of --into's app)"))
    names = ", ".join([MINIATURE, *CONFIGS])
    base = f"{names}, a diffusers folder, a .safetensors checkpoint or a hub id (default {DEFAULT_BASE})"
    add("--base", default=DEFAULT_BASE, help=base)
    network = "what merges the two LoRAs of --fused" if name == "unet" else "a trained hypernetwork"
    add("--hypernet", type=Path, metavar="FILE", help=f"{network} (default: the miniature's, for it)")
    random = "seeded random weights, to try a named base's size out; the manifest records those of a hypernetwork"
    add("--untrained", action="store_true", default=None, help=random)
    add("--rank", type=int, help=f"rank of a LoRA; those loaded together share the room {defaults_text('rank')}")
    add("--loras", type=int, metavar="K", help=f"LoRAs that can be loaded together (default {LORAS})")
    offered = "fp32 or fp16" if name == "hypernet" else "fp32, fp16, w8, w6 or w4"
    add("--precision", help=f"{offered}, as the target offers it (default {_PRECISIONS})")
    socs = [soc.name for target in TARGETS.values() for soc in target.socs]
    add("--soc", metavar="CHIP", help=f"qnn: the Snapdragon to compile for: {', '.join(socs)}")
    hours = "write the bundle without running it, where that takes hours (qnn's emulator, full sizes)"
    add("--unchecked", action="store_true", default=None, help=hours)
    place = kind.add_mutually_exclusive_group()
    folder = {"hypernet": "hypernet-", "unet": "unet-", "pipeline": ""}[name] + "BASE-TARGET-PRECISION"
    folder += "; with --fused fused-…" if name == "unet" else ""
    bundle = f"the bundle (default build/{folder}; for qnn with -CHIP at its end)"
    place.add_argument("-o", "--out", type=Path, metavar="DIR", help=bundle)
    if name != "hypernet":
        parts = f"what takes LoRAs: whole transformer blocks, or the attention alone (default {ADAPTED})"
        add("--adapt", choices=list(ADAPT), help=parts)
        add("--resolution", type=int, metavar="PIXELS", help="side of the image (default: the base's own)")
        batches = f"(default {UNET_BATCH if name == 'unet' else PIPELINE_BATCH})"
        add("--batch", type=int, help=f"2: with guidance, both prompts in one run; 1: one after the other {batches}")
    if name == "unet":
        weights = "add a LoRA, or a content and a style LoRA merged, into the weights instead of having adapter inputs"
        add("--fused", type=Path, nargs="+", metavar="LORA", help=weights)
    if name == "pipeline":
        _add_pipeline_options(kind, place)


def _add_pipeline_options(kind: Parser, place: Any) -> None:
    """Add those that a pipeline has beside a UNet's; `place` is where the bundle goes."""
    add = kind.add_argument
    app = "android_demo or ios_demo: where it looks for bundles"
    place.add_argument("--into", type=Path, metavar="APP", help=app)
    text = "give the text encoders inputs for LoRAs too, for LoRAs that were trained with them"
    add("--text-adapters", action="store_true", default=None, help=text)
    half = "fp32, or fp16 where the target offers it: half of the memory, for a VAE that was made for fp16"
    add("--vae-precision", metavar="P", help=f"{half} (default: the target's own)")
    tile = "decode the image in tiles of this side, with faint seams: less memory (default: the whole image)"
    add("--vae-tile", type=int, metavar="PIXELS", help=tile)
    vae = "an AutoencoderTiny, such as TAESDXL, instead of the base's VAE: folder or hub id"
    add("--tiny-vae", metavar="V", help=vae)
    add("--steps", type=int, metavar="N", help=f"denoising steps that apps start with (default {STEPS})")
    paper, own = PAPER_SAMPLING, MINIATURE_SAMPLING
    usual = f"{paper.guidance:g}, SDXL's; miniature {own.guidance:g}"
    add("--guidance", type=float, metavar="G", help=f"guidance that apps start with (default {usual})")
    rescale = "the share of what guidance adds to the spread that apps take off, 0 to 1"
    usual = f"{paper.guidance_rescale:g}; miniature {own.guidance_rescale:g}"
    add("--guidance-rescale", type=float, metavar="X", help=f"{rescale} (default {usual})")
    size = "only say what would be made: sizes, memory, and whether a phone has it"
    add("--plan", action="store_true", default=None, help=size)


def run(args: Namespace) -> int:
    """Export what the arguments name, and print the report."""
    if args.target is None:
        return _for_app(args)
    if args.into is not None:
        args.out = bundle_folder(args.into, find_target(args.target))
    # Before torch is imported, which takes seconds.
    component = "hypernet" if args.kind == "hypernet" else "unet"
    find_offer(args.target, component, args.precision, args.soc, args.vae_precision)
    if args.plan:
        return _plan(args)
    import export  # Its names import torch.

    given = {name: value for name, value in vars(args).items() if name not in _OWN and value is not None}
    watch = Stopwatch()
    try:
        with status("reading the base") as tell, watch.stage("export and check"):
            report = getattr(export, args.kind)(args.base, on_progress=tell, **given)
    except BaseException as error:
        for note in getattr(error, "__notes__", ()):
            print(note, file=sys.stderr)
        raise
    for line in _described(args, report.manifest):
        print(line)
    if report.rows:
        table = check_table(Bundle(report.out, report.manifest), report.rows)
        print_table(table.columns, table.rows, table.title, table.left)
    for note in (*report.notes, *(table.notes if report.rows else ("NOT CHECKED: nothing has run it",))):
        console().print(note)
    print(f"{report.out} ({report.bytes / 1e6:.1f} MB), {watch}")
    return EXIT_OK


main = main_of(parser, run)


def _for_app(args: Namespace) -> int:
    """Export a bundle for each of the targets that a demo app takes where none is named."""
    if args.into is None:
        instead = "" if getattr(args, "plan", None) else ", or  --into android_demo  or  ios_demo"
        raise InputError(f"no --target is given; give one{instead}")
    for target in default_targets(args.into):
        run(Namespace(**{**vars(args), "target": target}))
    return EXIT_OK


def _described(args: Namespace, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a user has to know of the bundle, a line each."""
    layout = Layout.from_json(manifest["base"], manifest["layout"])
    loras, rank = manifest["layout"]["loras"], manifest["layout"]["stacked_rank"]
    if args.kind == "hypernet":
        network = manifest["hypernetwork"]
        learned = sum(kind_of(module) in network["learned"] for module in layout.modules)
        kinds = ",".join(network["learned"])
        yield f"coefficients of {learned} layers ({kinds}); others by the rule {network['kv_rule']}"
        if not network["trained"]:
            yield "the hypernetwork is UNTRAINED: its coefficients mean nothing, only the arithmetic is shown"
        rank = MAX_STACKED_RANK if find_target(args.target).free_rank else rank
        yield f"up to {loras} LoRAs of rank {rank} together"
        return
    if args.kind == "unet":
        batch, _, height, width = manifest["components"]["unet"]["golden"]["inputs"]["sample"]["shape"]
        yield f"UNet for latents of {height}×{width}, batch {batch}"
        if args.fused:
            yield "a LoRA is fused into the weights: no adapter inputs"
        else:
            parts = ", ".join(PART_WORDS[part] for part in layout.parts)
            yield f"inputs for {loras} LoRAs of rank {rank} together: {parts}"
    if args.untrained:
        what = "the base is" if args.kind == "unet" else "the base and the hypernetwork are"
        yield f"{what} UNTRAINED: random weights, which draw nothing"


def _plan(args: Namespace) -> int:
    if args.out is not None:
        flag = "--into" if args.into is not None else "--out"
        raise InputError(f"--plan makes nothing, so {flag} can't apply; leave one of them out")
    with named_if_missing(TRAINING, "train"):
        from export.plan import advice, effort, plan_pipeline  # It imports torch and diffusers.

    left = ("hypernet", "untrained", "unchecked", "out", "steps", "guidance", "guidance_rescale")  # they change no size
    options = {name: value for name, value in vars(args).items() if name not in (*_OWN, *left) and value is not None}
    with status("counting"):
        planned = plan_pipeline(args.base, **options)
    rows = [
        (
            item.name,
            item.precision,
            f"{item.parameters / 1e6:.2f} M",
            *(f"{size / 1e6:.1f} MB" for size in (item.bytes, item.adapter_bytes, item.live_bytes)),
        )
        for item in planned.components
    ]
    total = sum(item.bytes for item in planned.components)
    rows.append(("bundle", "", "", f"{total / 1e6:.1f} MB", "", ""))
    image = f"{planned.pixels}×{planned.pixels}"
    what = f"{planned.base} · {planned.target.name} · {planned.precision} · {image} · {planned.target.runs_on}"
    columns = ("component", "precision", "parameters", "size", "LoRAs", "results in memory")
    print_table(columns, rows, title=f"{what}: nothing is made yet", left=columns[:2])
    console().print(parser().in_flags("\n".join((effort(planned), *advice(planned)))))
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
