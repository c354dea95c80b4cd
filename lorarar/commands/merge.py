"""Merge a content and a style LoRA file into one: `lorarar merge CONTENT STYLE -o merged.safetensors`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorarar.base.names import BASES_HELP, DEFAULT_BASE, MINIATURE, load_layout, shipped_hypernet
from lorarar.command_line import EXIT_OK, Parser, Stopwatch, run_command
from lorarar.commands.merge_ziplora import add_arguments, check_arguments, merge_ziplora
from lorarar.errors import InputError
from lorarar.files import check_lora_output
from lorarar.layout import Layout
from lorarar.lora import DTYPES, WRITERS, LoRA, read_lora, write_lora
from lorarar.merging import (
    CONTENT_ONLY,
    LEARNED,
    METHOD,
    METHODS,
    RULE,
    RULES,
    STYLE_ONLY,
    Merged,
    Options,
    learned_options,
    merge,
)
from lorarar.toolchains import missing_toolchain

_RULES_TEXT = """
which layers are merged how:
  a layer that only one LoRA has is carried exactly, times that LoRA's scale (--rank-out leaves it alone);
  a layer that both have is merged by the method; learned is made for the base's to_q and to_out.0 (or the kinds that
  its checkpoint learned), and merges every other layer (to_k, to_v, feed-forward, projections, convolutions, text
  encoders) by --rule, exactly. ziplora needs LoRAs of the attention linears alone.
  direct, learned, ziplora and np-lora give a LoRA of rank r_c + r_s that is the merge exactly. dare, ties and dare-ties
  act on ΔW = up @ down, whose result has full rank: it is cut to rank r_c + r_s (or --rank-out), and the error is
  reported.
"""


@dataclass(frozen=True)
class _Learner:
    """The options with the hypernetwork's, and what it adds to the metadata and the messages."""

    options: Options
    metadata: dict[str, str]
    notes: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; raises InputError for anything the user can put right."""
    args = _parse(argv)
    check_lora_output(args.output, args.content, args.style)
    given = _given_options(args)
    options = Options(**given)
    watch = Stopwatch()
    with watch.stage("read"):
        content, style = read_lora(args.content), read_lora(args.style)
    learner = None
    if args.method == "ziplora":
        merged = merge_ziplora(args, content, style, options, watch)
    else:
        with watch.stage("prepare"):
            if args.method == "learned":
                learner = _load_learner(args, given)
                options = learner.options
            layout = load_layout(args.base)
        with watch.stage("merge"):
            merged = _merge_with_progress(content, style, layout, args.method, options)
    if learner is not None:
        merged = replace(merged, lora=replace(merged.lora, metadata={**merged.lora.metadata, **learner.metadata}))
    with watch.stage("write"):
        write_lora(merged.lora, args.output, dialect=args.dialect, dtype=args.dtype)
    for note in (*(learner.notes if learner else ()), *merged.warnings):
        print(f"warning: {note}", file=sys.stderr)
    _show(args, options, content, style, merged, watch)
    return EXIT_OK


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    methods = "\n".join(f"  {name:<10} {method.summary} ({method.paper})" for name, method in METHODS.items())
    parser = Parser(
        prog="lorarar merge",
        description="Merge a content and a style LoRA into one LoRA file that diffusers, ComfyUI and others load.",
        epilog=f"methods:\n{methods}\n{_RULES_TEXT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("content", type=Path, metavar="CONTENT", help="the content LoRA: a .safetensors file or a PEFT folder")
    add("style", type=Path, metavar="STYLE", help="the style LoRA")
    add("--base", default=DEFAULT_BASE, help=BASES_HELP)
    add("--method", choices=METHODS, default="learned", help="how to merge (default learned)")
    add(
        "--hypernet",
        type=Path,
        metavar="H",
        help="the checkpoint for learned (default: the miniature's, for that base)",
    )
    add(
        "--untrained",
        action="store_true",
        help="seeded random weights for learned's hypernetwork or ziplora's base: to try things out only",
    )
    add("--content-scale", type=float, default=1.0, metavar="X", help="multiplies ΔW_c (default 1, the paper)")
    add("--style-scale", type=float, default=1.0, metavar="X", help="multiplies ΔW_s (default 1, the paper)")
    add("--rule", choices=RULES, help="direct: average or sum; learned: the k/v rule (default: the checkpoint's)")
    add("--density", type=float, metavar="P", help="dare, ties, dare-ties: share of entries kept (default 0.5)")
    add("--seed", type=int, metavar="N", help="dare, dare-ties: the masks' seed; ziplora: the noise's (default 0)")
    add("--mu", type=float, metavar="MU", help="np-lora: how far the content gives way (default 0.5)")
    add("--rank-out", type=int, metavar="R", help="largest rank of the merged layers (default r_c + r_s)")
    add("--dialect", choices=WRITERS, default="peft", help="key names of the output (default peft)")
    add("--dtype", choices=DTYPES, default="fp32", help="number format of the output (default fp32, exact)")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="the merged .safetensors file")
    add_arguments(parser)
    return parser.parse_args(argv)


def _given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The Options given; one that the method does not use is refused, since it would silently change nothing."""
    given = {"content_scale": args.content_scale, "style_scale": args.style_scale, "rank_out": args.rank_out}
    for name in ("rule", "density", "seed", "mu"):
        value = getattr(args, name)
        if value is None:
            continue
        if name not in METHODS[args.method].uses:
            users = ", ".join(method for method, entry in METHODS.items() if name in entry.uses)
            raise InputError(f"--{name} means nothing to {args.method}; leave it out, or use it with {users}")
        given[name] = value
    check_arguments(args)
    if args.method != "learned" and (args.hypernet or (args.untrained and args.method != "ziplora")):
        raise InputError(f"{args.method} uses no hypernetwork; leave --hypernet and --untrained out, or use learned")
    if args.hypernet and args.untrained:
        raise InputError("--hypernet and --untrained exclude each other; give one of them")
    if args.method == "learned" and not (args.hypernet or args.untrained):
        if args.base != MINIATURE:
            raise InputError(
                f"learned needs a hypernetwork for {args.base}: give --hypernet FILE, or --untrained to try it out "
                "with random weights"
            )
        args.hypernet = shipped_hypernet()
    return given


def _load_learner(args: argparse.Namespace, given: dict[str, Any]) -> _Learner:
    try:
        from lorarar.hypernet.checkpoints import load_predictor, untrained_hypernet
    except ImportError:
        raise missing_toolchain("torch", "train") from None
    loaded = untrained_hypernet() if args.untrained else load_predictor(args.hypernet)
    notes = loaded.notes
    if not loaded.trained:
        notes = (
            *notes,
            "the hypernetwork is untrained (random weights): this merge shows the mechanics, not the method",
        )
    metadata = {
        "lorarar_hypernet": loaded.source,
        "lorarar_hypernet_sha256": loaded.sha256,
        "lorarar_hypernet_trained": str(loaded.trained).lower(),
    }
    return _Learner(learned_options(loaded.predictor, **given), metadata, notes)


def _merge_with_progress(content: LoRA, style: LoRA, layout: Layout, method: str, options: Options) -> Merged:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("merging", total=None)
        return merge(
            content,
            style,
            layout,
            method,
            options,
            lambda done, total: progress.update(task, completed=done, total=total),
        )


def _show(
    args: argparse.Namespace, options: Options, content: LoRA, style: LoRA, merged: Merged, watch: Stopwatch
) -> None:
    """A short table: what was read, what was done to it, what came out."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for role, lora in (("content", content), ("style", style)):
        table.add_row(role, f"{lora.source}: {lora.dialect}, {len(lora.layers)} layers, {_ranks(lora)}")
    table.add_row("method", f"{args.method} for {args.base}: {_settings(args.method, options)}")
    table.add_row("layers", _layers(merged, options))
    if merged.truncation is not None:
        cut = merged.truncation
        table.add_row("cut to a rank", f"‖ΔW − ΔW_r‖/‖ΔW‖ = {cut.overall:.2%} over {cut.layers} layers")
        table.add_row("", f"at worst {cut.worst:.2%}, in {cut.worst_layer}")
    else:
        table.add_row("exactness", "exact: no ΔW was cut to a rank")
    size = args.output.stat().st_size / 1e6
    table.add_row("merged", f"{args.output}: {args.dialect}, {args.dtype}, {_ranks(merged.lora)}, {size:.1f} MB")
    table.add_row("time", str(watch))
    # Paths and names in square brackets are not markup, and long ones may wrap but not be cut.
    Console(markup=False, highlight=False, soft_wrap=True).print(table)


def _ranks(lora: LoRA) -> str:
    ranks = sorted({layer.rank for layer in lora.layers.values()})
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]}–{ranks[-1]}"


def _settings(method: str, options: Options) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.describe(METHODS[method].uses).items())


def _layers(merged: Merged, options: Options) -> str:
    words = {
        LEARNED: "learned",
        METHOD: "merged",
        RULE: f"by the rule ({options.rule})",
        CONTENT_ONLY: "only in the content, carried",
        STYLE_ONLY: "only in the style, carried",
    }
    return ", ".join(f"{merged.count(kind)} {text}" for kind, text in words.items() if merged.count(kind))


if __name__ == "__main__":
    run_command(main)
