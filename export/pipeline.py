"""Export everything that a phone needs to make an image with any two LoRAs, as one bundle.

    python -m export.pipeline --target onnx|coreml|executorch [--base miniature|sdxl|koala-700m|koala-1b|FOLDER]
                              [--checkpoint H | --untrained] [--rank R] [--precision P] [--resolution PIXELS]
                              [--batch 1|2] [--attention A] [--tiny-vae V] [--steps N] [--guidance G]
                              [--plan | --out DIR | --into APP]

The merger, both text encoders, the UNet with adapter inputs, the VAE's decoder, the tokenizers, the scheduler's
numbers, and golden tensors of each part and of a whole image. All of it is checked against PyTorch before it is kept.
An export that was interrupted goes on where it was when the same command is given again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorarar.command_line import EXIT_OK, Parser, Stopwatch, run_command

if TYPE_CHECKING:
    from export.graph import ImageSize
    from export.resume import Unfinished
    from lorarar.hypernet.checkpoints import LoadedHypernet
    from lorarar.layout import Layout
    from runtime_py.check import CheckRow

Progress = Callable[[str], None]


@dataclass(frozen=True)
class PipelineOptions:
    """What to make of a base. `rank` is that of one LoRA."""

    target: str
    precision: str  # the UNet's
    rank: int
    size: ImageSize
    steps: int  # what an app starts with
    guidance: float
    attention: str = "original"  # a key of export.forms.ATTENTION; the UNet's


@dataclass(frozen=True)
class Source:
    """A base, loaded: a StableDiffusionXLPipeline, its layout, and the hypernetwork to merge with."""

    pipeline: Any
    layout: Layout
    hypernet: LoadedHypernet


def export_pipeline(
    source: Source, options: PipelineOptions, out: Path, progress: Progress = lambda _: None
) -> list[CheckRow]:
    """Write the whole bundle to `out` and return its parity rows. Takes the source's networks over.

    Raises InputError for what is not offered and FailedCheck when a part is not PyTorch's equal; `out` is then left as
    it was.
    """
    from export.forms import check_attention
    from export.golden import write_image
    from export.manifest import check_output, manifest, write_manifest
    from export.parity import measure, measure_pipeline
    from export.resume import unfinished_folder
    from export.scheduling import scheduler_settings
    from export.targets import find_target
    from export.tolerance import tolerance

    target = find_target(options.target)
    tolerance("unet", target.name, options.precision)
    check_attention(options.attention, target.name)
    check_output(out)
    target.load()
    settings = scheduler_settings(source.pipeline.scheduler)
    with unfinished_folder(out, _origins(source, options)) as work:
        folder = work.folder
        facts = _facts(source, options, settings, folder)
        golden = work.kept("golden image")
        if golden is None:
            progress("drawing the golden image with diffusers")
            golden = write_image(source.pipeline, source.layout, options, folder)
            work.keep("golden image", golden)
        facts["golden"] = golden
        entries = _write_parts(source, options, work, progress)
        data = manifest(target.name, options.precision, options.rank, source.layout, entries, source.hypernet)
        data["pipeline"] = facts
        write_manifest(folder, data)
        rows = []
        for name, entry in entries.items():
            found = measure(folder, name, progress)
            entry["parity"] = found[0].parity().to_json()
            rows += found
        whole = measure_pipeline(folder, progress)
        facts["golden"]["parity"] = whole.parity().to_json()
        write_manifest(folder, data)
    return [*rows, whole]


def _origins(source: Source, options: PipelineOptions) -> dict[str, Any]:
    """All that a bundle depends on but for the toolchains, as JSON."""
    from lorarar.base.fingerprint import fingerprint
    from lorarar.base.sources import NETWORKS

    networks = {name: fingerprint(getattr(source.pipeline, name)) for name in NETWORKS}
    tokenizers = [sorted(tokenizer.get_vocab().items()) for tokenizer in _tokenizers(source.pipeline).values()]
    scheduler = {name: str(value) for name, value in source.pipeline.scheduler.config.items()}
    return {
        "options": asdict(options),
        "layout": source.layout.to_json(options.rank),
        "hypernet": source.hypernet.sha256,
        "networks": networks,
        "tokenizers": tokenizers,
        "scheduler": scheduler,
    }


def _write_parts(source: Source, options: PipelineOptions, work: Unfinished, progress: Progress) -> dict[str, Any]:
    """Every component's files; their entries by name, in the order in which an app runs them."""
    from export.components import write_component
    from export.forms import suit
    from export.golden import GOLDEN_PROMPT
    from export.graph import merger_graph, text_graph, unet_graph, vae_graph
    from export.parts import ImageReference, TextReference
    from export.targets import find_target
    from export.tolerance import part_precision
    from lorarar.hypernet.graph import Merger

    target, pipeline, layout = find_target(options.target), source.pipeline, source.layout
    entries: dict[str, Any] = {}

    def write(graph: Any, reference: Any = None, prepare: Callable[[], None] = lambda: None) -> None:
        kept = work.kept(graph.name)
        if kept is None:
            work.discard(f"{graph.name}{target.suffix}")
            precision = part_precision(graph.name, options.precision)
            kept = write_component(work.folder, graph, target, precision, progress, reference, prepare)
            work.keep(graph.name, kept)
        else:
            progress(f"{graph.name}: taken from the export that was stopped")
        entries[graph.name] = kept

    hypernet = source.hypernet.hypernet
    write(merger_graph(hypernet, layout, target.name, options.rank), Merger(hypernet, layout))
    for name, tokenizer in _tokenizers(pipeline).items():
        model = getattr(pipeline, name)
        tokens = tokenizer(GOLDEN_PROMPT, padding="max_length", max_length=tokenizer.model_max_length, truncation=True)
        write(text_graph(name, model, tokens["input_ids"]), TextReference(model))
        setattr(pipeline, name, None)
    unet = pipeline.unet
    write(
        unet_graph(unet, layout, options.rank, options.size), prepare=lambda: suit(unet, target.name, options.attention)
    )
    vae = pipeline.vae
    write(vae_graph(vae, options.size), ImageReference(vae), lambda: suit(vae, target.name))
    return entries


def _tokenizers(pipeline: Any) -> dict[str, Any]:
    return {"text_encoder": pipeline.tokenizer, "text_encoder_2": pipeline.tokenizer_2}


def _facts(source: Source, options: PipelineOptions, settings: Any, folder: Path) -> dict[str, Any]:
    """The manifest's `pipeline` but for its golden image; writes the tokenizers' files."""
    from export.manifest import file_entry
    from runtime_py.noise import NOISE, NOISE_TEXT

    tokenizers = {}
    for name, tokenizer in _tokenizers(source.pipeline).items():
        path = folder / "tokenizers" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        tokenizer.backend_tokenizer.save(str(path))
        tokenizers[name] = file_entry(folder, path) | {
            "length": tokenizer.model_max_length,
            "start": tokenizer.bos_token_id,
            "end": tokenizer.eos_token_id,
            "pad": tokenizer.pad_token_id,
        }
    return {
        "pixels": options.size.pixels,
        "steps": options.steps,
        "guidance": options.guidance,
        "negative": "zeros" if source.pipeline.config.force_zeros_for_empty_prompt else "empty",
        "scheduler": asdict(settings),
        "noise": {"name": NOISE, "text": NOISE_TEXT},
        "tokenizers": tokenizers,
    }


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)

    from rich.console import Console

    from export.places import bundle_place
    from export.targets import find_target
    from export.tolerance import tolerance

    target = find_target(args.target)
    precision = args.precision or target.default_precision
    tolerance("unet", target.name, precision)
    into = bundle_place(args.into, target.name) if args.into is not None else None
    if args.plan:
        _plan(args, precision)
        return EXIT_OK
    watch, console = Stopwatch(), Console(stderr=True)
    with console.status("reading the base") as status:
        with watch.stage("load"):
            source, options = _load(args, precision)
        out = args.out or into or Path("build") / f"{source.layout.base}-{target.name}-{precision}"
        with watch.stage("export and check"):
            rows = export_pipeline(source, options, out, status.update)
    _report(out, rows, args, watch)
    return EXIT_OK


def _plan(args: Any, precision: str) -> None:
    """Print what would be made. Nothing large is loaded, so a named base needs neither weights nor --untrained."""
    from export.hypernet import chosen_rank
    from lorarar.base.names import load_layout
    from lorarar.toolchains import missing_toolchain

    try:
        from export.plan import plan, print_plan
        from lorarar.base.sources import meta_parts, open_tiny_vae
    except ModuleNotFoundError as error:
        raise missing_toolchain(error.name or "torch", "train") from None
    layout, rank = load_layout(args.base), chosen_rank(args.base, args.rank)
    parts = meta_parts(args.base)
    if args.tiny_vae is not None:
        scale = 2 ** (len(parts["vae"].config.block_out_channels) - 1)
        parts["vae"] = open_tiny_vae(args.tiny_vae, scale, parts["unet"].config.in_channels)
    print_plan(plan(layout.base, args.target, precision, layout, rank, parts))


def _load(args: Any, precision: str) -> tuple[Source, PipelineOptions]:
    from export.hypernet import chosen_checkpoint, chosen_rank, load_source
    from export.unet import load_unet
    from lorarar.base.names import GUIDANCE, PAPER_GUIDANCE, load_layout
    from lorarar.toolchains import missing_toolchain

    try:
        import torch

        from export.forms import check_attention
        from lorarar.base.sources import open_pipeline, open_tiny_vae
    except ModuleNotFoundError as error:
        raise missing_toolchain(error.name or "torch", "train") from None
    check_attention(args.attention, args.target)
    layout = load_layout(args.base)
    checkpoint = chosen_checkpoint(args.base, args.checkpoint, args.untrained)
    loaded = load_source(checkpoint, args.untrained and checkpoint is None, layout)
    rank = chosen_rank(args.base, args.rank)
    unet, size = load_unet(args, precision)
    pipeline = open_pipeline(args.base, args.untrained, torch.float32, unet=False)
    pipeline.register_modules(unet=unet)
    if args.tiny_vae is not None:
        pipeline.register_modules(vae=open_tiny_vae(args.tiny_vae, size.pixels // size.latent, unet.config.in_channels))
    for network in (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.vae, unet):
        network.eval().requires_grad_(False)
    guidance = GUIDANCE.get(args.base, PAPER_GUIDANCE) if args.guidance is None else args.guidance
    options = PipelineOptions(args.target, precision, rank, size, args.steps, guidance, args.attention)
    return Source(pipeline, layout, loaded), options


def _parse(argv: Sequence[str] | None) -> Any:
    from lorarar.base.names import BASES_HELP, DEFAULT_BASE
    from lorarar.training.settings import defaults_text

    parser = Parser(prog="python -m export.pipeline", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--target", required=True, help="onnx, coreml or executorch")
    add("--base", default=DEFAULT_BASE, help=BASES_HELP)
    add("--checkpoint", type=Path, metavar="FILE", help="a trained hypernetwork (default: the miniature's, for it)")
    add("--untrained", action="store_true", help="seeded random weights for all, to try a named base's size out")
    add("--rank", type=int, help=f"largest rank of a LoRA {defaults_text('rank')}")
    add(
        "--precision",
        help="the UNet's: fp32, fp16, w8, w6, w4 as the target has them (default: fp16 for coreml, else fp32); "
        "text encoders follow it down to w8, merger and VAE stay in fp32",
    )
    add("--resolution", type=int, metavar="PIXELS", help="side of the image (default: the base's own)")
    add("--batch", type=int, choices=(1, 2), default=2, help="2: guidance in one run of the UNet (default 2)")
    add("--attention", default="original", help="split-einsum: coreml's UNet, in the form for the Neural Engine")
    add(
        "--tiny-vae",
        metavar="V",
        help="an AutoencoderTiny, such as TAESDXL, instead of the base's VAE: folder or hub id",
    )
    add("--steps", type=int, default=25, metavar="N", help="denoising steps that apps start with (default 25)")
    add("--guidance", type=float, metavar="G", help="guidance that apps start with (default 5, SDXL's; miniature 2)")
    add("--plan", action="store_true", help="only say what would be made: sizes, memory, what a phone says to them")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--out", type=Path, metavar="DIR", help="the bundle (default build/BASE-TARGET-PRECISION)")
    place.add_argument("--into", type=Path, metavar="APP", help="android_demo or ios_demo: where that app looks for it")
    return parser.parse_args(argv)


def _report(out: Path, rows: list[CheckRow], args: Any, watch: Stopwatch) -> None:
    from runtime_py.bundle import Bundle
    from runtime_py.check import print_table

    bundle = Bundle.open(out)
    if args.untrained:
        print("the base and the hypernetwork are UNTRAINED: random weights, which draw nothing")
    print_table(bundle, rows)
    size = sum(entry["bytes"] for entry in bundle.manifest["components"].values()) / 2**20
    print(f"{out} ({size:.1f} MB), {watch}")


if __name__ == "__main__":
    run_command(main)
