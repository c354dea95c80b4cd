"""Draw an image with a bundle alone, as a phone does: `lorarar generate BUNDLE --prompt P -o image.png`."""

from __future__ import annotations

import argparse
from pathlib import Path

from lorarar.command_line import EXIT_OK, Parser, Stopwatch, main_of, run_command
from lorarar.commands.drawing import add_drawing, carried_warnings, request_of
from lorarar.console import progress, warn
from lorarar.errors import InputError
from lorarar.files import atomic_file, check_png, whole
from runtime_py.guidance import guidance_in_words


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(
        prog="lorarar generate",
        description="Draw an image with a bundle alone, as a phone does.\n\n"
        "A content and a style LoRA are merged by the bundle's hypernetwork; other LoRAs are added as they are. The\n"
        "same seed gives the same image on every target, up to its precision.",
    )
    add = made.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="a bundle of lorarar export pipeline")
    add("--content", type=Path, metavar="LORA", help="the content LoRA: a .safetensors file or a PEFT folder")
    add("--style", type=Path, metavar="LORA", help="the style LoRA")
    add("--lora", type=Path, action="append", metavar="LORA", help="another LoRA, applied as it is; may be repeated")
    add("--content-scale", type=float, metavar="X", help="multiplies the content's share (default 1)")
    add("--style-scale", type=float, metavar="X", help="multiplies the style's share (default 1)")
    add(
        "--lora-scale", type=float, action="append", metavar="X", help="that of each --lora, in their order (default 1)"
    )
    add("--method", choices=("learned", "direct", "k-lora"), help="how to merge (default learned)")
    add("--negative", metavar="P", help="what not to draw (default: the base's own)")
    add_drawing(made)
    add("-o", "--out", type=Path, required=True, metavar="PNG", help="the image")
    return made


def run(args: argparse.Namespace) -> int:
    """Draw the image and tell where the time went."""
    check_png(args.out, *whole(args.bundle))
    loras, strengths = _loras(args)

    from PIL import Image

    # Not above: `--help` answers without loading the runtime.
    from runtime_py.bundle import Bundle

    watch = Stopwatch()
    with progress("opening and verifying the bundle", total=1):
        session = Bundle.open(args.bundle).session()
        request = request_of(args, session.pipeline, args.negative)
        with watch.stage("stack"):
            session.load(loras)
        with watch.stage("merge"):
            if loras:
                session.merge(args.method or "learned", strengths=strengths)
    warn(carried_warnings(session))
    with progress("drawing", total=1) as update:
        drawn = session.draw(request, on_stage=lambda stage, done, total: update(done, total, text=stage))
        with atomic_file(args.out) as temporary:
            Image.fromarray(drawn.image).save(temporary, format="PNG")
    watch.seconds.update(drawn.seconds)
    warn(session.notes)
    side = drawn.image.shape[0]
    guided = guidance_in_words(request.guidance, request.guidance_rescale)
    print(f"{args.out}: {side}×{side}, {request.steps} steps, {guided}, seed {request.seed}")
    print(watch)
    return EXIT_OK


def _loras(args: argparse.Namespace) -> tuple[list[Path], list[float]]:
    """Return the LoRAs that were given and their strengths: the content, the style, then the others."""
    loras, strengths = [], []
    for role in ("content", "style"):
        path, scale = getattr(args, role), getattr(args, f"{role}_scale")
        if path is None and scale is not None:
            raise InputError(f"--{role}-scale belongs to a LoRA; give --{role} as well")
        if path is not None:
            loras.append(path)
            strengths.append(1.0 if scale is None else scale)
    more, scales = args.lora or [], args.lora_scale or []
    if len(scales) not in (0, len(more)):
        raise InputError(f"{len(scales)} --lora-scale for {len(more)} --lora; give one for each, or none")
    if more and len(loras) == 1:
        raise InputError("--lora stands beside a content and a style LoRA, or alone; give both, or none of them")
    if not loras and len(more) > 1:
        raise InputError("several --lora stand beside a content and a style LoRA; give --content and --style")
    if args.method is not None and not (loras or more):
        raise InputError("--method is how LoRAs are merged; give --content and --style, or leave it out")
    return [*loras, *more], [*strengths, *(scales or [1.0] * len(more))]


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
