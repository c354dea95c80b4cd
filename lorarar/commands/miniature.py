"""Make a miniature, `lorarar miniature build`; measure what it draws, `report`; make a test, `wide`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from lorarar.base.names import MINIATURE_FOLDER, MINIATURE_SAMPLING
from lorarar.command_line import EXIT_OK, Parser, main_of, run_command
from lorarar.console import console, print_table, progress
from lorarar.errors import InputError
from lorarar.evaluation.settings import EvaluationSettings
from lorarar.files import atomic_file, atomic_folder, check_folder, read_json
from lorarar.settings import check_at_least, check_positive, check_seed
from lorarar.toolchains import TRAINING, named_if_missing, require_torch
from lorarar.training.launch import check_device
from miniature.build import DEFAULT_WORK, STAGES, build
from miniature.progress import Report

SHEET, REPORT = "sheet.png", "report.json"
INDEX, PIPELINE = "model_index.json", "StableDiffusionXLPipeline"  # of a folder of diffusers
LOGGED_S = 60.0  # a log without a terminal gets a line as often as this

_EPILOG = """\
stages, in order; each goes on where a stopped run left it, and is skipped once it is done:
{}

Everything grows in WORK/miniature. The output folder stays as it is until all of it is there.
"""


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(
        "lorarar miniature",
        description="Make the miniature from nothing: world, base, judge, LoRAs and hypernetwork.",
    )
    commands = made.add_subparsers(dest="command", metavar="build|report|wide|pairs", required=True)
    stages = "\n".join(f"  {name:<12} {text}" for name, (text, _) in STAGES.items())
    _add_build(commands.add_parser("build", help="make it", epilog=_EPILOG.format(stages)))
    _add_report(commands.add_parser("report", help="measure what a base draws, by the judge, and show it"))
    _add_wide(commands.add_parser("wide", help="make the wide test: further subjects, styles and their LoRAs"))
    _add_pairs(commands.add_parser("pairs", help="draw the training pairs, for  lorarar train --joint-images"))
    return made


def _add_build(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    work = f"drawings and states of training (default {DEFAULT_WORK})"
    add("--work", type=Path, default=DEFAULT_WORK, metavar="WORK", help=work)
    out = "replaced at the end (default: the shipped one, which is lost)"
    add("-o", "--out", type=Path, default=MINIATURE_FOLDER, metavar="DIR", help=out)
    add("--until", choices=STAGES, default="publish", help="the last stage to run (default publish)")
    start = "take the VAE, the text encoders and the UNet of this pipeline, and train its UNet further"
    add("--start", type=Path, metavar="DIR", help=start)
    add("--rounds", type=int, metavar="N", help="of the UNet's further training (default 2)")
    add("--steps", type=int, metavar="N", help="of a round (default 8500)")
    add("--batch", type=int, metavar="N", help="drawings a step of the UNet (default 32)")
    add("--rate", type=float, metavar="X", help="highest learning rate of a round (default 6e-4)")
    device = "trains VAE, UNet and judge; LoRAs and hypernetwork take a GPU where there is one"
    add("--device", choices=("cpu", "cuda"), default="cpu", help=device)
    add("--seed", type=int, default=0, metavar="N", help="seed of everything (default 0)")
    add("--eager", action="store_true", help="do not compile the base's training, for a machine without a C++ compiler")


def _add_report(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add("--base", type=Path, default=MINIATURE_FOLDER, metavar="DIR", help="the pipeline (default: the shipped)")
    data = "its LoRAs, of which the validation part is measured (default: the base's, where it has one)"
    add("--dataset", type=Path, metavar="DIR", help=data)
    add("-o", "--out", type=Path, default=Path("build/report"), metavar="DIR", help="report.json and sheet.png")
    add("--samples", type=int, default=200, metavar="N", help="captions that the base draws (default 200)")
    add("--images", type=int, default=8, metavar="N", help="images a LoRA and prompt (default 8)")
    steps, guidance, rescale = MINIATURE_SAMPLING
    add("--steps", type=int, default=steps, metavar="N", help=f"denoising steps (default {steps})")
    add("--guidance", type=float, default=guidance, metavar="G", help=f"classifier-free (default {guidance:g})")
    told = f"the share of what guidance adds to the spread that is taken off (default {rescale:g})"
    add("--guidance-rescale", type=float, default=rescale, metavar="X", help=told)
    add("--seed", type=int, default=0, metavar="N", help="seed of the captions and the noise (default 0)")


def _add_wide(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    base = "the pipeline that the LoRAs are for (default: the shipped)"
    add("--base", type=Path, default=MINIATURE_FOLDER, metavar="DIR", help=base)
    part = "the test's 24 subjects and 24 styles, 16 and 16 others for every choice, or 36 and 52 others to train on"
    add("--part", choices=("test", "validation", "train"), default="test", help=f"{part} (default test)")
    out = "the dataset, for  lorarar evaluate --dataset  or  lorarar train --more  (default build/wide)"
    add("-o", "--out", type=Path, default=Path("build/wide"), metavar="DIR", help=out)
    add("--seed", type=int, default=0, metavar="N", help="seed of everything (default 0)")


def _add_pairs(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    out = "a folder for each pair (default build/pairs)"
    add("-o", "--out", type=Path, default=Path("build/pairs"), metavar="DIR", help=out)
    add("--seed", type=int, default=0, metavar="N", help="seed of the drawings (default 0)")


def run(args: argparse.Namespace) -> int:
    """Build or measure; raises InputError for anything the user can put right."""
    check_seed(args.seed)
    return {"build": _build, "report": _report, "wide": _wide, "pairs": _pairs}[args.command](args)


def _build(args: argparse.Namespace) -> int:
    given = {name: getattr(args, name) for name in ("rounds", "steps", "batch") if getattr(args, name) is not None}
    check_at_least(0, rounds=given.get("rounds", 0))
    check_at_least(1, steps=given.get("steps", 1), batch=given.get("batch", 1))
    check_positive(6e-4, rate=1.0 if args.rate is None else args.rate)
    if args.start is not None:
        _check_pipeline(args.start)
    for folder in (args.work, args.out):
        check_folder(folder)
    with named_if_missing(TRAINING, "train"):
        # Not needed for --help: it imports torch.
        from miniature.pipelines import open_pipeline, trainings_of
        from miniature.stages import BuildPlan, check_output
    if args.start is not None:  # Much drawing comes before it is needed.
        trainings_of(args.start)
        open_pipeline(args.start)
    check_output(args.out, args.work)
    check_device(args.device)
    names = list(STAGES)
    with _shown() as report:
        plan = BuildPlan(args.work, args.out, args.seed, start=args.start, compiled=not args.eager, report=report)
        rounds = {"steps": given.pop("steps", plan.longer.steps), "rate": args.rate or plan.longer.rate}
        plan = replace(plan, **given, longer=replace(plan.longer, **rounds), device=args.device)
        build(plan, names[: names.index(args.until) + 1], _print_made)
    return EXIT_OK


def _wide(args: argparse.Namespace) -> int:
    _check_pipeline(args.base)
    check_folder(args.out)
    require_torch()
    # Not needed for --help: they import torch.
    from miniature.stages import BuildPlan
    from miniature.wide import write_wide

    with _shown() as report:
        folder = write_wide(BuildPlan(args.out, args.out, args.seed, report=report), args.base, args.part)
    purpose = "training" if args.part == "train" else args.part
    console().print(f"{folder}: subjects and styles of the wide {purpose}, with their LoRAs")
    return EXIT_OK


def _pairs(args: argparse.Namespace) -> int:
    check_folder(args.out)
    if args.out.is_dir() and any(args.out.iterdir()):
        raise InputError(f"{args.out}: this folder is not empty; name a new one")
    require_torch()
    from miniature.references import write_pairs  # not needed for --help: it imports torch

    with _shown() as report, atomic_folder(args.out) as temporary:
        write_pairs(temporary, args.seed, report)
    console().print(f"{args.out}: every training subject in every training style, and the validation's")
    return EXIT_OK


def _report(args: argparse.Namespace) -> int:
    check_at_least(1, samples=args.samples)
    drawing = EvaluationSettings(
        images=args.images,
        steps=args.steps,
        guidance=args.guidance,
        guidance_rescale=args.guidance_rescale,
        seed=args.seed,
    )
    _check_pipeline(args.base)
    check_folder(args.out, SHEET, REPORT)
    require_torch()
    # Not needed for --help: they import torch.
    from miniature.report import ReportSettings, measure

    with _shown() as report:
        rows, picture = measure(ReportSettings(args.base, args.dataset, args.samples, drawing), report)
    with atomic_file(args.out / SHEET) as temporary:
        picture.save(temporary, format="PNG")
    with atomic_file(args.out / REPORT) as temporary:
        temporary.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    print_table(
        ("right answers", "share", "95 %", "drawn", "rebuilt", "read", "wished", ""),
        [
            (
                row.name,
                f"{row.share:.2f}",
                "" if row.low is None else f"{row.low:.2f}–{row.high:.2f}",
                "" if row.ceiling is None else f"{row.ceiling:.2f}",
                "" if row.rebuilt is None else f"{row.rebuilt:.2f}",
                "" if row.read is None else f"{row.read:.2f}",
                "" if row.gate is None else f"{row.gate:.2f}",
                {None: "", True: "reached", False: "below"}[row.passed],
            )
            for row in rows
        ],
        left=("right answers",),
    )
    console().print(f"{args.out / SHEET}: drawings, the autoencoder's, the base's, LoRAs alone")
    return EXIT_OK


def _check_pipeline(folder: Path) -> None:
    if not (folder / INDEX).is_file():
        raise InputError(f"{folder}: no pipeline in diffusers' layout; give a folder with a {INDEX}")
    index = read_json(folder / INDEX, what="what a pipeline has", mend="give another folder", schema={"type": "object"})
    if index.get("_class_name") != PIPELINE:
        raise InputError(f"{folder}: this is a {index.get('_class_name')}; give a {PIPELINE}, as a miniature is one")


def _print_made(stage: str, made: Path, seconds: float) -> None:
    console().print(f"{stage:<12} {made}  {seconds / 60:.1f} min")


@contextmanager
def _shown() -> Iterator[Report]:
    """Show a progress bar; yields what to report to. Without a terminal, print a line now and then."""
    said = time.monotonic()
    with progress("") as update:

        def report(text: str, done: int, total: int) -> None:
            nonlocal said
            update(done, total, text=text)
            if not console(stderr=True).is_terminal and time.monotonic() - said > LOGGED_S:
                said = time.monotonic()
                print(f"{text}: {done} of {total}", flush=True)

        yield report


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
