"""Export a hypernetwork, a UNet or a whole pipeline as a bundle for phones, checked against PyTorch."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.demo_apps import bundle_folder
from export.options import ATTENTION, PIPELINE_BATCH, STEPS, UNET_BATCH
from export.targets import TARGETS, find_target
from lorarar.base.names import BASES_HELP, DEFAULT_BASE
from lorarar.command_line import EXIT_OK, Parser, Stopwatch, run_command
from lorarar.console import console, print_table, status
from lorarar.errors import InputError
from lorarar.training.settings import defaults_text
from runtime_py.bundle import Bundle
from runtime_py.check import check_table

if TYPE_CHECKING:
    from export.options import Report
    from export.plan import Plan

_NAMES = ("target", "base", "hypernet", "untrained", "rank", "precision", "resolution", "batch", "attention")
_PRECISIONS = ", ".join(f"{target.default_precision} for {name}" for name, target in TARGETS.items())


def parser() -> Parser:
    """Return the command's parser, with one of its own for each thing that can be exported."""
    made = Parser(prog="lorarar export", description=__doc__)
    kinds = made.add_subparsers(dest="kind", required=True, metavar="WHAT", parser_class=Parser)
    for name, (add, run_kind, about) in _KINDS.items():
        kind = kinds.add_parser(name, help=about, description=f"Export {about}.")
        add(kind)
        kind.set_defaults(run_kind=run_kind, in_flags=kind.in_flags)
    return made


def run(args: Namespace) -> int:
    """Export what the arguments name, and print the report."""
    try:
        run_kind: Callable[[Namespace], int] = args.run_kind
        return run_kind(args)
    except InputError as error:
        raise InputError(args.in_flags(str(error))) from error
    except BaseException as error:
        for note in getattr(error, "__notes__", ()):
            print(note, file=sys.stderr)
        raise


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; raises InputError for anything the user can put right."""
    return run(parser().parse_args(argv))


def _add_common(kind: Parser, name: str) -> None:
    """Add what every export has; `name` is what its bundle is called before -BASE-TARGET-PRECISION."""
    add = kind.add_argument
    add("--target", required=True, help=", ".join(TARGETS))
    add("--base", default=DEFAULT_BASE, help=BASES_HELP)
    add("--rank", type=int, help=f"largest rank of a LoRA {defaults_text('rank')}")
    add("--precision", help=f"fp32, fp16, w8, w6 or w4, as the target offers it (default {_PRECISIONS})")
    place = kind.add_mutually_exclusive_group()
    place.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help=f"the bundle (default build/{name}BASE-TARGET-PRECISION)"
    )
    if not name:
        place.add_argument(
            "--into", type=Path, metavar="APP", help="android_demo or ios_demo: where it looks for bundles"
        )


def _add_image(kind: Parser, batch: int) -> None:
    """Add what the exports of a UNet have; `batch` is the default."""
    add = kind.add_argument
    add("--resolution", type=int, metavar="PIXELS", help="side of the image (default: the base's own)")
    add(
        "--batch", type=int, help=f"2: with guidance, both prompts in one run; 1: one after the other (default {batch})"
    )
    add("--attention", help=f"split-einsum: coreml's UNet in the form for the Neural Engine (default {ATTENTION})")


def _add_hypernet(kind: Parser) -> None:
    _add_common(kind, "merger-")
    kind.add_argument(
        "--hypernet", type=Path, metavar="FILE", help="a trained hypernetwork (default: the miniature's, for it)"
    )
    kind.add_argument("--untrained", action="store_true", help="seeded random weights; recorded in the manifest")


def _add_unet(kind: Parser) -> None:
    _add_common(kind, "unet-")
    _add_image(kind, UNET_BATCH)
    add = kind.add_argument
    add("--untrained", action="store_true", help="a named base with seeded random weights, to try its size out")
    add(
        "--fused",
        type=Path,
        nargs="+",
        metavar="LORA",
        help="add a LoRA, or a content and a style LoRA merged, into the weights instead of having adapter inputs",
    )
    add(
        "--hypernet",
        type=Path,
        metavar="FILE",
        help="what merges the two LoRAs of --fused (default: the miniature's, for it)",
    )


def _add_pipeline(kind: Parser) -> None:
    _add_common(kind, "")
    _add_image(kind, PIPELINE_BATCH)
    add = kind.add_argument
    add("--hypernet", type=Path, metavar="FILE", help="a trained hypernetwork (default: the miniature's, for it)")
    add("--untrained", action="store_true", help="seeded random weights for all, to try a named base's size out")
    add(
        "--tiny-vae",
        metavar="V",
        help="an AutoencoderTiny, such as TAESDXL, instead of the base's VAE: folder or hub id",
    )
    add("--steps", type=int, metavar="N", help=f"denoising steps that apps start with (default {STEPS})")
    add("--guidance", type=float, metavar="G", help="guidance that apps start with (default 5, SDXL's; miniature 2)")
    add("--plan", action="store_true", help="only say what would be made: sizes, memory, what a phone says to them")


def _given(args: Namespace, *names: str) -> dict[str, Any]:
    """Return the named options that were given, by the names of the library's parameters."""
    return {name: value for name in names if (value := getattr(args, name)) is not None and value is not False}


def _export(args: Namespace, *names: str) -> tuple[Report, Stopwatch]:
    """Call the library's function of the kind with what was given."""
    target = find_target(args.target)  # Before torch is imported, which takes seconds.
    if args.precision is not None:
        target.require("merger" if args.kind == "hypernet" else "unet", args.precision)
    import export  # Its names import torch.

    watch = Stopwatch()
    with status("reading the base") as tell, watch.stage("export and check"):
        report = getattr(export, args.kind)(args.base, target=args.target, on_progress=tell, **_given(args, *names))
    return report, watch


def _run_hypernet(args: Namespace) -> int:
    report, watch = _export(args, "hypernet", "untrained", "rank", "precision", "out")
    groups = report.manifest["layout"]["groups"]
    learned, ruled = (
        sum(len(group["modules"]) for group in groups if group["name"].startswith(part)) for part in ("qo", "kv")
    )
    network = report.manifest["hypernetwork"]
    print(f"{learned} layers learned, {ruled} by the k/v rule ({network['kv_rule']}), in {len(groups)} groups")
    if not network["trained"]:
        print("the hypernetwork is UNTRAINED: its coefficients mean nothing, only the arithmetic is shown")
    if find_target(args.target).free_rank:
        print("any LoRA rank")
    else:
        print(f"LoRAs up to rank {groups[0]['rank']}; shorter ranks are padded with zeros, which is exact")
    return _tell(report, watch)


def _run_unet(args: Namespace) -> int:
    report, watch = _export(args, *_NAMES[2:], "fused", "out")
    golden = report.manifest["components"]["unet"]["golden"]["inputs"]
    side, batch = int(golden["time_ids"]["values"][0]), golden["sample"]["shape"][0]
    print(f"UNet for images of {side}×{side} pixels, batch {batch}")
    if args.fused:
        print("a LoRA is fused into the weights: no adapter inputs")
    else:
        rank = report.manifest["layout"]["groups"][0]["rank"]
        print(f"adapters of rank {2 * rank}: two LoRAs of rank {rank}, shorter ones padded with zeros")
    if args.untrained:
        print("the base is UNTRAINED: random weights, which draw nothing")
    return _tell(report, watch)


def _run_pipeline(args: Namespace) -> int:
    if args.into is not None:
        args.out = bundle_folder(args.into, find_target(args.target))
    if args.plan:
        return _plan(args)
    report, watch = _export(args, *_NAMES[2:], "tiny_vae", "steps", "guidance", "out")
    if args.untrained:
        print("the base and the hypernetwork are UNTRAINED: random weights, which draw nothing")
    return _tell(report, watch)


def _tell(report: Report, watch: Stopwatch) -> int:
    """Print the parity table, and where the bundle is."""
    table = check_table(Bundle(report.out, report.manifest), report.rows)
    print_table(table.columns, table.rows, table.title, table.left)
    for note in (*report.notes, *table.notes):
        console().print(note)
    print(f"{report.out} ({report.bytes / 2**20:.1f} MB), {watch}")
    return EXIT_OK


def _plan(args: Namespace) -> int:
    if args.out is not None:
        flag = "--into" if args.into is not None else "--out"
        raise InputError(f"--plan makes nothing, so {flag} can't apply; leave one of them out")
    find_target(args.target).require_attention(args.attention or ATTENTION)
    from export.plan import advice, effort, plan_pipeline  # It imports torch.

    with status("counting"):
        planned = plan_pipeline(args.base, target=args.target, **_given(args, "precision", "rank", "tiny_vae"))
    _print_plan(planned)
    for sentence in (effort(planned), *advice(planned)):
        console().print(sentence)
    return EXIT_OK


def _print_plan(planned: Plan) -> None:
    rows = [
        (item.name, item.precision, f"{item.parameters / 1e6:.2f} M", f"{item.bytes / 1e6:.1f} MB")
        for item in planned.components
    ]
    total = sum(item.bytes for item in planned.components)
    what = f"{planned.base} · {planned.target.name} · {planned.precision} · {planned.target.runs_on}"
    columns = ("component", "precision", "parameters", "size")
    print_table(
        columns,
        [*rows, ("bundle", "", "", f"{total / 1e6:.1f} MB")],
        title=f"{what}: nothing is made yet",
        left=columns[:2],
    )


_KINDS: dict[str, tuple[Callable[[Parser], None], Callable[[Namespace], int], str]] = {
    "hypernet": (_add_hypernet, _run_hypernet, "the hypernetwork and the exact merge, as one artifact"),
    "unet": (_add_unet, _run_unet, "the UNet with adapter inputs, or with a LoRA fused into its weights"),
    "pipeline": (_add_pipeline, _run_pipeline, "all that makes images from text with any two LoRAs, as one bundle"),
}


if __name__ == "__main__":
    run_command(main)
