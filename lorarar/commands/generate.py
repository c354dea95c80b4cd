"""Draw an image with a bundle alone, as a phone does: `lorarar generate BUNDLE --prompt P -o image.png`."""

from __future__ import annotations

import argparse
from pathlib import Path

from lorarar.command_line import EXIT_OK, Parser, Stopwatch, main_of, run_command
from lorarar.commands.drawing import add_drawing, check_png
from lorarar.console import console, progress
from lorarar.errors import InputError
from lorarar.files import atomic_file


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(
        prog="lorarar generate",
        description="Draw an image with a bundle alone, as a phone does.\n\n"
        "Two LoRAs are merged by the bundle's merger; one alone is applied as it is. The same seed gives the same\n"
        "image on every target, up to its precision.",
    )
    add = made.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="a bundle of lorarar export pipeline")
    add("--content", type=Path, metavar="LORA", help="the content LoRA: a .safetensors file or a PEFT folder")
    add("--style", type=Path, metavar="LORA", help="the style LoRA")
    add("--lora", type=Path, metavar="LORA", help="instead of both: a LoRA that is merged already")
    add("--content-scale", type=float, metavar="X", help="multiplies the content's share of a merge (default 1)")
    add("--style-scale", type=float, metavar="X", help="multiplies the style's share of a merge (default 1)")
    add("--negative", metavar="P", help="what not to draw (default: the base's own)")
    add_drawing(made)
    add("-o", "--out", type=Path, required=True, metavar="PNG", help="the image")
    return made


def run(args: argparse.Namespace) -> int:
    """Draw the image and tell where the time went."""
    check_png(args.out)
    loras, strengths = _loras(args)

    from PIL import Image

    # Not above: `--help` answers without loading the runtime.
    from runtime_py.bundle import Bundle

    watch = Stopwatch()
    with progress("opening and verifying the bundle", total=1) as update:
        session = Bundle.open(args.bundle).session()
        request = session.pipeline.request(
            args.prompt, seed=args.seed, steps=args.steps, guidance=args.guidance, negative=args.negative
        )
        with watch.stage("merge"):
            session.load(loras)
            if loras:
                session.merge("learned", strengths=strengths)
        drawn = session.draw(request, on_stage=lambda stage, done, total: update(done, total, text=stage))
        with atomic_file(args.out) as temporary:
            Image.fromarray(drawn.image).save(temporary, format="PNG")
    watch.seconds.update(drawn.seconds)
    for note in session.notes:
        console(stderr=True).print(f"warning: {note}")
    side = drawn.image.shape[0]
    print(f"{args.out}: {side}×{side}, {request.steps} steps, guidance {request.guidance:g}, seed {request.seed}")
    print(watch)
    return EXIT_OK


def _loras(args: argparse.Namespace) -> tuple[list[Path], tuple[float, ...] | None]:
    """The LoRAs that were given, and the strengths of a merge."""
    if args.lora and (args.content or args.style):
        raise InputError("--lora is one whole LoRA, merged already; leave --content and --style out beside it")
    loras = [path for path in (args.content, args.style, args.lora) if path]
    scales = (args.content_scale, args.style_scale)
    if len(loras) < 2:
        if scales != (None, None):
            raise InputError("--content-scale and --style-scale belong to a merge; give --content and --style as well")
        return loras, None
    return loras, tuple(1.0 if scale is None else scale for scale in scales)


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
