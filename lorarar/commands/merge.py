"""`lorarar merge`: two LoRA files → one, by any method, or with a bundle's artifact as a phone does it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorarar.api import RUN_BASE, MergeRequest, examples_of, refuse_unused
from lorarar.base.names import BASES_HELP, DEFAULT_BASE, MINIATURE_FOLDER
from lorarar.command_line import EXIT_OK, Parser, Stopwatch, add_settings, given_settings, main_of, run_command
from lorarar.console import print_rows, print_table, progress, status, warn
from lorarar.errors import InputError
from lorarar.files import check_lora_output, whole
from lorarar.lora import DTYPES, WRITERS, LoRA, open_lora
from lorarar.lora.write import partly_read
from lorarar.merging import CONTENT_ONLY, LEARNED, METHOD, METHODS, RULE, STYLE_ONLY, Merged, MergeOptions
from lorarar.settings import check_at_least, option_names
from lorarar.toolchains import require_torch
from lorarar.training.dataset import Content, Style, read_dataset
from lorarar.training.hyper_settings import ZipSettings, check_weighed

if TYPE_CHECKING:
    from lorarar.training.examples import Reference

_RULES_TEXT = """
which layers are merged how:
  a layer that only one LoRA has is carried exactly, times that LoRA's scale (--rank-out leaves it alone);
  a layer that both have is merged by the method; learned has coefficients for the kinds of layer that its checkpoint
  learned (the paper: to_q and to_out.0), and merges every other layer (feed-forward, projections, convolutions, text
  encoders, …) by --rule, exactly. ziplora needs LoRAs of the attention linears alone.
  dare, ties and dare-ties act on ΔW = up @ down, and their result has full rank: it is cut to rank r_c + r_s (or
  --rank-out), and the error is reported. Every other method gives a LoRA of at most that rank that is the merge
  exactly, unless --rank-out cuts it.
"""
_OPTIONS = ("rule", "density", "seed", "mu", "rank_out")
_JOINT = [name for name in option_names(ZipSettings()) if name.startswith("joint")]
"""The joint term's, which ZipLoRA's loss has none of."""
_ZIP_SETTINGS = [name for name in option_names(ZipSettings()) if name not in _JOINT]
_EXAMPLES = ("content_images", "content_prompt", "style_images", "style_prompt")
_HERE = (
    "base",
    "method",
    "hypernet",
    "untrained",
    "convert",
    "dataset",
    "resolution",
    *_EXAMPLES,
    *_OPTIONS,
    *_ZIP_SETTINGS,
)
"""The options of a merge by this program, which mean nothing to a bundle's artifact."""


def parser() -> Parser:
    """Make the command's parser."""
    methods = "\n".join(f"  {name:<10} {method.summary} ({method.paper})" for name, method in METHODS.items())
    made = Parser(
        prog="lorarar merge",
        description="Merge a content and a style LoRA into one LoRA file for diffusers and PEFT or,\n"
        "with --dialect kohya, for ComfyUI and WebUIs.",
        epilog=f"methods:\n{methods}\n{_RULES_TEXT}",
    )
    add = made.add_argument
    add("content", type=Path, metavar="CONTENT", help="the content LoRA: a .safetensors file or a PEFT folder")
    add("style", type=Path, metavar="STYLE", help="the style LoRA")
    add("-o", "--out", type=Path, required=True, metavar="FILE", help="the merged .safetensors file")
    add("--base", help=BASES_HELP)
    add("--method", choices=METHODS, help="how to merge (default learned)")
    add("--hypernet", type=Path, metavar="FILE", help="learned: a hypernetwork (default: the miniature's, for it)")
    add(
        "--untrained",
        action="store_true",
        default=None,
        help="random weights for learned's hypernetwork, or the base that ziplora and ssr run: to try things out only",
    )
    add_settings(made, MergeOptions())
    made_plain = "make plain LoRAs of at most rank R of both first, as `lorarar convert` does"
    add("--convert", type=int, metavar="R", help=made_plain)
    add("--dialect", choices=WRITERS, default="peft", help="key names of the output (default peft)")
    add("--dtype", choices=DTYPES, default="fp32", help="number format of the output (default fp32, exact)")
    _add_examples(
        made.add_argument_group("ziplora, ssr", "what the two LoRAs were trained on; ziplora: how to optimise")
    )
    group = made.add_argument_group("with a bundle, as a phone does it")
    group.add_argument("--bundle", type=Path, metavar="DIR", help="merge with its artifact, by learned, for its base")
    group.add_argument("--coefficients-plot", type=Path, metavar="PNG", help="draw the coefficients layer by layer")
    return made


def _add_examples(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--dataset", type=Path, metavar="DIR", help="a dataset that the two LoRA files belong to")
    add("--content-images", type=Path, nargs="+", metavar="PATH", help="or: image files or folders of the content")
    add("--content-prompt", metavar="P", help="its prompt, such as 'a sks dog': all that ssr needs")
    add("--style-images", type=Path, nargs="+", metavar="PATH", help="the same for the style")
    add("--style-prompt", metavar="P", help="such as 'a house in watercolor style'")
    add_settings(group, ZipSettings(), skip=_JOINT)
    add("--resolution", type=int, metavar="PIXELS", help="side of the images (default: the dataset's or the base's)")


def run(args: argparse.Namespace) -> int:
    """Merge, write and tell what was done."""
    folders = whole(MINIATURE_FOLDER, *(Path(given) for given in (args.bundle, args.base) if given))
    learned_on = filter(Path.is_file, whole(args.dataset)) if args.dataset else ()
    check_lora_output(args.out, *filter(None, (args.content, args.style, args.hypernet)), *folders, *learned_on)
    if args.bundle is not None:
        return _run_bundle(args)
    if args.coefficients_plot is not None:
        raise InputError("`coefficients_plot` is drawn of a bundle's merge; give `bundle` too, or leave it out")
    request = _request(args)
    if args.convert is not None and request.method not in RUN_BASE:
        request.open()  # A conversion, which decomposes each layer, comes before it is needed.
    watch = Stopwatch()
    with watch.stage("read"):
        content, style = map(_reader(args), (args.content, args.style))
    with watch.stage("merge"), progress("merging") as update:
        merged = request.run(content, style, update)
    with watch.stage("write"):
        merged.lora.save(args.out, args.dialect, args.dtype)
    warn((*merged.warnings, *partly_read(merged.lora, args.dialect)))
    _show(args, content, style, merged, str(watch))
    return EXIT_OK


def _reader(args: argparse.Namespace) -> Callable[[Path], LoRA]:
    """Return what reads a LoRA, or makes one of a file that is none; a base is opened once for both."""
    if args.convert is None:
        return open_lora  # a layer at a time is read, merged and written
    check_at_least(1, convert=args.convert)
    require_torch()
    # Here, since they import torch, which merging plain LoRAs can do without.
    from lorarar.base.weights import base_weights
    from lorarar.convert import convert

    return partial(convert, rank=args.convert, weights=base_weights(args.base or DEFAULT_BASE))


def _request(args: argparse.Namespace) -> MergeRequest:
    """Return what was asked for; the request refuses what its method does not use."""
    method = args.method or MergeRequest().method
    options = _given(args, ("content_scale", "style_scale", *_OPTIONS))
    refuse_unused(method, ["ziplora"], _given(args, _ZIP_SETTINGS))
    refuse_unused(method, RUN_BASE, _given(args, ("dataset",)))
    examples = examples_of(method, args.content_images, args.content_prompt, args.style_images, args.style_prompt)
    resolution = args.resolution
    if args.dataset is not None:
        if given := _given(args, _EXAMPLES):
            raise InputError(f"`dataset` and `{next(iter(given))}` exclude each other; give one of them")
        examples, own = _examples_in(args.dataset, args.content, args.style)
        if resolution is None and method == "ziplora":
            resolution = own
    elif method == "ziplora" and examples is None:
        raise InputError(
            "ziplora optimises on what the LoRAs were trained on: give `dataset`, or all of `content_images`, "
            "`content_prompt`, `style_images` and `style_prompt`"
        )
    settings = None
    if method in RUN_BASE:
        # Here, since they import torch, and --help must not.
        from lorarar.training.launch import command_process, with_fastest_precision

        check_weighed(args.regulariser, args.weight)
        fastest = with_fastest_precision(ZipSettings(), command_process())
        settings = given_settings(args, fastest) if method == "ziplora" else None
    return MergeRequest(
        base=args.base or DEFAULT_BASE,
        method=method,
        hypernet=args.hypernet,
        untrained=bool(args.untrained),
        options=options,
        examples=examples,
        settings=settings,
        resolution=resolution,
    )


def _given(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _examples_in(dataset: Path, content: Path, style: Path) -> tuple[tuple[Reference, Reference], int]:
    """Find the images and prompts of two LoRA files in the dataset that they belong to, and its resolution."""
    read = read_dataset(dataset)
    found: list[Content | Style] = []
    for role, path, entries in (("content", content, read.contents), ("style", style, read.styles)):
        match = [entry for entry in entries.values() if entry.lora == path.resolve()]
        if not match:
            raise InputError(f"{path} is the LoRA of no {role} in {dataset}; give its images and prompts instead")
        found.append(match[0])
    return (found[0], found[1]), read.resolution


def _run_bundle(args: argparse.Namespace) -> int:
    if given := _given(args, _HERE):
        raise InputError(
            f"`{next(iter(given))}` means nothing to a bundle, which has its own; leave it or `bundle` out"
        )
    # Here, since merging without a bundle needs no runtime.
    from runtime_py.bundle import Bundle
    from runtime_py.merge import coefficient_medians, merge_files

    options = MergeOptions(**_given(args, ("content_scale", "style_scale")))
    with status("opening the bundle") as tell:
        bundle = Bundle.open(args.bundle)
        done = merge_files(
            bundle,
            args.content,
            args.style,
            args.out,
            strengths=options.scales,
            dialect=args.dialect,
            dtype=args.dtype,
            plot=args.coefficients_plot,
            on_progress=lambda stage, *_: tell(stage),
        )
    untrained = () if done.trained else ("the hypernetwork is untrained: its coefficients mean nothing",)
    warn((*untrained, *done.merged.warnings, *partly_read(done.merged.lora, args.dialect)))
    _show(args, done.content, done.style, done.merged, str(Stopwatch(done.seconds)))
    medians = coefficient_medians(bundle.layout, done.merged.coefficients or {})
    print_table(
        ("learned", "layers", "m_c median", "m_s median"),
        [(row.group, str(row.layers), f"{row.content:.3f}", f"{row.style:.3f}") for row in medians],
        title=f"merged in {done.runtime}",
        left=("learned",),
    )
    if done.note:
        print(done.note)
    return EXIT_OK


def _show(args: argparse.Namespace, content: LoRA, style: LoRA, merged: Merged, times: str) -> None:
    """Print a short table: what was read, what was done to it, what came out."""
    facts = {name.removeprefix("lorarar_"): text for name, text in merged.lora.metadata.items()}
    rows = [
        (role, f"{lora.source}: {lora.dialect}, {len(lora.layers)} layers, {lora.ranks}")
        for role, lora in (("content", content), ("style", style))
    ]
    shown = ("content_scale", "style_scale", *_OPTIONS, "learned", "constants")
    settings = ", ".join(f"{name} {facts[name]}" for name in shown if name in facts)
    rows.append(("method", f"{facts['method']} for {args.base or facts['base']}: {settings}"))
    words = {LEARNED: "learned", METHOD: "merged", RULE: f"by the rule ({facts.get('rule', '')})"}
    words |= {CONTENT_ONLY: "only in the content, carried", STYLE_ONLY: "only in the style, carried"}
    counts = {text: merged.count(kind) for kind, text in words.items()}
    rows.append(("layers", ", ".join(f"{count} {text}" for text, count in counts.items() if count)))
    if (cut := merged.truncation) is not None:
        rows.append(("cut to a rank", f"‖ΔW − ΔW_r‖/‖ΔW‖ = {cut.overall:.2%} over {cut.layers} layers"))
        rows.append(("", f"at worst {cut.worst:.2%}, in {cut.worst_layer}"))
    else:
        of = "of the converted LoRAs" if args.convert else "no ΔW was cut to a rank"
        rows.append(("exactness", f"exact: {of}"))
    size = args.out.stat().st_size / 1e6
    rows.append(("merged", f"{args.out}: {args.dialect}, {args.dtype}, {merged.lora.ranks}, {size:.1f} MB"))
    rows.append(("time", times))
    print_rows(rows)


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
