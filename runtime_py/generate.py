"""Draw an image with a bundle alone, as a phone does.

    lorarar generate BUNDLE --content L --style L --prompt P [--steps N] [--seed S] -o image.png

Two LoRAs are merged by the bundle's merger; one alone is applied as it is. The same seed gives the same image on every
target, up to its precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorarar.command_line import EXIT_OK, Parser, Stopwatch, run_command
from lorarar.errors import InputError
from lorarar.files import atomic_file
from lorarar.lora import LoRA, read_lora
from lorarar.merging import MergeOptions
from runtime_py.backends import open_session
from runtime_py.bundle import Bundle
from runtime_py.merge import merge_with_bundle
from runtime_py.pipeline import Pipeline, Report, defaults


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    loras = _given(args)
    if args.output.suffix.lower() != ".png":
        raise InputError(f"{args.output}: the image is a PNG; end its name with .png")
    with _progress() as report:
        report("opening and verifying the bundle", 0, 1)
        bundle = Bundle.open(args.bundle)
        pipeline = Pipeline(bundle)
        options = {"seed": args.seed, "steps": args.steps, "guidance": args.guidance, "negative": args.negative}
        request = defaults(bundle, args.prompt, **options)
        watch = Stopwatch()
        with watch.stage("merge"):
            lora = merged_lora(bundle, loras, args.content_scale, args.style_scale)
            adapter = pipeline.adapter(lora)
        drawn = pipeline.draw(request, adapter, report)
        with atomic_file(args.output) as temporary:
            from PIL import Image

            Image.fromarray(drawn.image).save(temporary, format="PNG")
    for note in drawn.notes:
        print(note)
    side = drawn.image.shape[0]
    print(f"{args.output}: {side}×{side}, {request.steps} steps, guidance {request.guidance:g}, seed {request.seed}")
    print(f"{watch} · {drawn.watch}")
    return EXIT_OK


def merged_lora(bundle: Bundle, loras: Sequence[LoRA], content_scale: float, style_scale: float) -> LoRA | None:
    """None, the one LoRA as it is, or content and style merged by the bundle's merger."""
    if len(loras) < 2:
        return loras[0] if loras else None
    rule = bundle.manifest["hypernetwork"]["kv_rule"]
    options = MergeOptions(content_scale=content_scale, style_scale=style_scale, rule=rule)
    return merge_with_bundle(bundle, open_session(bundle, "merger"), loras[0], loras[1], options).lora


def _given(args: Any) -> list[LoRA]:
    if args.lora and (args.content or args.style):
        raise InputError("--lora is one whole LoRA, merged already; leave --content and --style out beside it")
    if not (args.content and args.style) and (args.content_scale, args.style_scale) != (1.0, 1.0):
        raise InputError("--content-scale and --style-scale belong to a merge; give --content and --style as well")
    return [read_lora(path) for path in (args.content, args.style, args.lora) if path]


def _parse(argv: Sequence[str] | None) -> Any:
    parser = Parser(prog="lorarar generate", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="a bundle of export.pipeline")
    add("--prompt", required=True, help="what to draw, with the LoRAs' own words: a sks dog in watercolor style")
    add("--content", type=Path, metavar="LORA", help="the content LoRA")
    add("--style", type=Path, metavar="LORA", help="the style LoRA")
    add("--lora", type=Path, metavar="LORA", help="instead of both: a LoRA that is merged already")
    add("--content-scale", type=float, default=1.0, metavar="X", help="multiplies the content's share (default 1)")
    add("--style-scale", type=float, default=1.0, metavar="X", help="multiplies the style's share (default 1)")
    add("--negative", metavar="P", help="what not to draw (default: the base's own)")
    add("--steps", type=int, metavar="N", help="denoising steps (default: the bundle's)")
    add("--guidance", type=float, metavar="G", help="classifier-free guidance, 1 is off (default: the bundle's)")
    add("--seed", type=int, default=0, metavar="S", help="of the noise (default 0)")
    add("-o", "--output", type=Path, required=True, metavar="PNG", help="the image")
    return parser.parse_args(argv)


@contextmanager
def _progress() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=1)
        yield lambda stage, done, total: progress.update(task, description=stage, completed=done, total=total)


if __name__ == "__main__":
    run_command(main)
