"""Generate, judge and tabulate: `lorarar evaluate --methods direct,learned --judge J -o OUT`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorarar import __version__
from lorarar.base.names import (
    GUIDANCE,
    MINIATURE,
    PAPER_GUIDANCE,
    PAPER_STEPS,
    STEPS,
    shipped_dataset,
    shipped_hypernet,
)
from lorarar.command_line import EXIT_OK, Parser, run_command
from lorarar.errors import InputError
from lorarar.evaluation.method_names import DEFAULT_METHODS, METHODS, parse_hypernets, parse_methods
from lorarar.evaluation.results import RESULTS_FILE, Results, read_results, write_results
from lorarar.evaluation.tables import Table, all_tables, write_tables
from lorarar.toolchains import missing_toolchain
from lorarar.training.dataset import DEFAULT_SPLIT, read_dataset

if TYPE_CHECKING:
    from lorarar.evaluation.run import Evaluation, Report

DTYPES = ("fp32", "fp16", "bf16")
# The test part is for final figures: whatever is chosen, tuned or compared as a design goes by validation.
PARTS = ("test", "validation")

_NOTES = """
what it writes into the output folder:
  images/METHOD/CONTENT--STYLE/00.png …   one folder a pair; a run that was stopped goes on where it was
  results.json                            every verdict, with the settings and the judge
  tables.md and one .csv a table          the paper's Tables 1, 2, A2 and A3, each with 95 % intervals by pair
  grid_*.png, per_content.png, …          image grids like Fig. 9 and 10, bars like Fig. A7
Tables and pictures alone, without generating or judging anything:  --from OUT
Ablations (Table A3) belong on the validation part:  --part validation --hypernets q=q.safetensors,qo=qo.safetensors
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; raises InputError for anything the user can put right."""
    args = _parse(argv)
    if args.results is not None:
        results = read_results(args.results)
        run = args.results if args.results.is_dir() else args.results.parent
    else:
        run = args.output
        results = _evaluate(args)
        write_results(results, run / RESULTS_FILE)
    _present(results, run, args)
    return EXIT_OK


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    methods = "\n".join(f"  {name:<19}{entry.summary}" for name, entry in METHODS.items())
    parser = Parser(
        prog="lorarar evaluate",
        description="Evaluate merging methods by MARS²: generate, judge, and make the paper's tables.",
        epilog=f"methods:\n{methods}\n{_NOTES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--base", default=MINIATURE, help="the base: miniature, a diffusers folder or a hub id (default miniature)")
    add("--dataset", type=Path, metavar="DIR", help="the folder of dataset.json (default: the miniature's)")
    add("--methods", default=",".join(DEFAULT_METHODS), help="names, with commas (default: %(default)s)")
    add("--judge", default=MINIATURE, metavar="J", help="miniature, or a folder or hub id of a vision-language model")
    add("--hypernet", type=Path, metavar="H", help="the checkpoint of learned (default: the miniature's)")
    add("--hypernets", default="", metavar="NAME=PATH,…", help="more checkpoints, each a row of the ablations' table")
    add("--split", default=DEFAULT_SPLIT, help="a split of the dataset (default paper)")
    add("--part", choices=PARTS, default="test", help="the split's part: test, or validation for every choice")
    add("--images", type=int, default=10, metavar="N", help="images a pair (default 10, the paper's)")
    add("--steps", type=int, metavar="N", help="denoising steps (default 50, the paper's; miniature 25)")
    add("--guidance", type=float, metavar="G", help="classifier-free guidance (default 5, SDXL's; miniature 2)")
    add("--seed", type=int, default=0, metavar="S", help="of the noise, of random merges and of the intervals")
    add("--batch", type=int, default=5, metavar="N", help="images drawn, or questions asked, at once (default 5)")
    add(
        "--zip-steps", type=int, default=100, metavar="N", help="ziplora: optimisation steps (default 100, the paper's)"
    )
    add("--joint-steps", type=int, metavar="N", help="joint: training steps (default: train_lora's for this base)")
    add(
        "--clip",
        metavar="M",
        help="CLIP for CLIP-I and CLIP-T: a folder or hub id, such as openai/clip-vit-base-patch32",
    )
    add("--dino", metavar="M", help="DINO: a folder or hub id, such as facebook/dino-vits16")
    add("--device", default="auto", help="cpu, cuda or auto (default)")
    add("--dtype", choices=DTYPES, help="of the UNet and text encoders (default fp32 on a CPU, fp16 elsewhere)")
    add("--from", dest="results", type=Path, metavar="RESULTS", help="a run's folder or results.json: tables only")
    add("-o", "--output", type=Path, metavar="DIR", help="the folder of the run; with --from, of the tables")
    args = parser.parse_args(argv)
    if args.steps is None:
        args.steps = STEPS.get(args.base, PAPER_STEPS)
    if args.guidance is None:
        args.guidance = GUIDANCE.get(args.base, PAPER_GUIDANCE)
    _check(args)
    return args


def _check(args: argparse.Namespace) -> None:
    for name, least in (("images", 1), ("steps", 1), ("batch", 1), ("zip_steps", 1), ("joint_steps", 1), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} is {value}; give a whole number of {least} or more")
    if not (math.isfinite(args.guidance) and args.guidance >= 1):
        raise InputError(f"--guidance is {args.guidance}; give a number from 1 upwards, 1 turns guidance off")
    if args.output is None and args.results is None:
        raise InputError("-o is missing; name the folder of this run, for example  -o results")
    if args.output is not None and args.output.exists() and not args.output.is_dir():
        raise InputError(f"{args.output}: this is a file; name a folder")
    args.method_names, args.checkpoints = parse_methods(args.methods), parse_hypernets(args.hypernets)
    if not args.method_names and not args.checkpoints:
        raise InputError(f"--methods is empty; valid are {', '.join(METHODS)}")


def _evaluate(args: argparse.Namespace) -> Results:
    # What can be wrong is looked at in the order of its price: files, judge, base, checkpoints, then the hours of work.
    dataset = read_dataset(args.dataset or shipped_dataset())
    try:
        import torch

        from lorarar.evaluation.judges import load_judge
        from lorarar.evaluation.methods import check_loras, sampled_pairs
        from lorarar.evaluation.metrics import choose_embedder
        from lorarar.evaluation.run import check_places, generate_all, judge_all
    except ModuleNotFoundError as error:
        raise missing_toolchain(error.name or "torch", "train") from None
    pairs = sampled_pairs(dataset, args.split, args.part)
    if args.checkpoints or any(METHODS[name].loras for name in args.method_names):
        check_loras(dataset, pairs)
    device = args.device if args.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    judge = load_judge(args.judge, device, args.batch)
    embedder = choose_embedder(judge, args.clip, args.dino, device)
    evaluation = _prepare(args, dataset, pairs, device)
    missing = check_places(evaluation)
    with _progress(missing, "generating") as report:
        generate_all(evaluation, report)
    total = len(pairs) * len(evaluation.methods) * args.images
    with _progress(total, "judging") as report:
        return judge_all(evaluation, judge, embedder, _settings(args, evaluation, dataset.name), report)


def _prepare(args: argparse.Namespace, dataset: Any, pairs: Sequence[Any], device: str) -> Evaluation:
    from dataclasses import replace

    from lorarar.base.components import base_name
    from lorarar.base.names import unet_layout
    from lorarar.evaluation.generate import Sampler, Sampling
    from lorarar.evaluation.methods import Workbench, prepare
    from lorarar.evaluation.run import Evaluation
    from lorarar.hypernet.checkpoints import load_hypernet, load_predictor
    from lorarar.training.hyper_settings import ZipSettings
    from lorarar.training.settings import default_settings

    dtype = args.dtype or ("fp32" if device == "cpu" else "fp16")
    sampling = Sampling(args.base, args.steps, args.guidance, args.seed, dtype)
    checkpoints = {name: load_predictor(Path(path)) for name, path in args.checkpoints.items()}
    if any(METHODS[name].hypernet for name in args.method_names):
        shared = load_hypernet(args.hypernet or shipped_hypernet())
        checkpoints |= {name: shared for name in args.method_names if METHODS[name].hypernet}
    sampler = Sampler.load(sampling, device, args.batch)
    joint, precision = default_settings(args.base), "no" if dtype == "fp32" else dtype
    components = sampler.components()
    bench = Workbench(
        components,
        unet_layout(components.unet, base_name(components)),
        dataset,
        args.split,
        replace(joint, seed=args.seed, steps=args.joint_steps or joint.steps, mixed_precision=precision),
        ZipSettings(steps=args.zip_steps, seed=args.seed, mixed_precision=precision),
        args.seed,
    )
    names = [*args.method_names, *args.checkpoints]
    methods = [prepare(name, bench, checkpoints.get(name)) for name in names]
    return Evaluation(args.output, bench, sampler, methods, pairs, args.images)


def _settings(args: argparse.Namespace, evaluation: Evaluation, dataset: str) -> dict[str, Any]:
    """What a reader of the results needs to know, without this machine's folders."""
    sampling = evaluation.sampler.sampling
    return {
        "toolkit_version": __version__,
        "base": evaluation.bench.layout.base,
        "dataset": dataset,
        "split": args.split,
        "part": args.part,
        "images": args.images,
        "steps": sampling.steps,
        "guidance": sampling.guidance,
        "seed": sampling.seed,
        "dtype": sampling.dtype,
        "device": str(evaluation.bench.components.device),
        "options": {method.name: dict(method.facts) for method in evaluation.methods},
    }


@contextmanager
def _progress(total: int, what: str) -> Iterator[Report]:
    """A bar on stderr over `total` images."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda text, done: progress.update(task, description=text, advance=done)


def _present(results: Results, run: Path, args: argparse.Namespace) -> None:
    from lorarar.evaluation.grids import write_pictures

    output = args.output or run
    tables = all_tables(results, args.seed)
    written = write_tables(tables, output)
    written += write_pictures(results, {table.name: table for table in tables}, run, output)
    _print(tables[0])
    print(f"{len(written)} tables and pictures in {output}: tables.md, grid_methods.png, …")


def _print(table: Table) -> None:
    from rich.console import Console
    from rich.table import Table as Shown

    from lorarar.evaluation.tables import show

    shown = Shown(title=table.title, caption=table.note, title_justify="left", caption_justify="left")
    for place, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if place else "left")
    for row in table.rows:
        # The interval under its estimate: side by side they need more than a terminal's 80 columns.
        shown.add_row(*(show(cell).replace(" [", "\n[") for cell in row))
    Console(markup=False, highlight=False).print(shown)


if __name__ == "__main__":
    run_command(main)
