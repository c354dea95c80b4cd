"""Train LoRAs as the paper does: `lorarar train-lora --images DIR --prompt "a sks dog" -o FILE`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lorarar.base.names import CONFIGS, DEFAULT_BASE, MINIATURE
from lorarar.command_line import EXIT_OK, Parser, Stopwatch, run_command
from lorarar.errors import InputError
from lorarar.files import check_lora_output
from lorarar.images import find_images
from lorarar.lora import DTYPES, LoRA, write_lora
from lorarar.training.curve import ends, sparkline
from lorarar.training.dataset import read_dataset
from lorarar.training.many import Loading, Progress, missing_jobs, train_here, train_in_processes
from lorarar.training.settings import DEFAULT_EVERY, PRECISIONS, LoraSettings, default_settings, defaults_text

_MODES_TEXT = """
one LoRA:       --images DOG_PHOTOS --prompt "a sks dog" -o dog.safetensors
                a rare token names a subject, a description a style: "a house in watercolor painting style"
joint training: the same with --style-images and --style-prompt: one LoRA learns both (the paper's baseline)
a dataset:      --dataset DIR trains every LoRA of DIR/dataset.json whose file is missing, so it resumes
several GPUs:   accelerate launch -m lorarar.commands.train_lora …; the result is the same on any number of them, since
                --batch-size counts the images of all processes
"""


@dataclass
class _Run:
    """What a training needs beside its images."""

    args: argparse.Namespace
    settings: LoraSettings
    loading: Loading
    processes: int
    is_main: bool
    watch: Stopwatch = field(default_factory=Stopwatch)

    def load(self) -> Any:
        import torch

        from lorarar.base.components import load_components

        with self.watch.stage("load"):
            return load_components(
                self.loading.base,
                untrained=self.loading.untrained,
                resolution=self.loading.resolution,
                dtype=getattr(torch, self.loading.dtype),
                device=self.loading.device,
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; raises InputError for anything the user can put right."""
    args = _parse(argv)
    _check_mode(args)
    if args.dataset:
        return _train_dataset(args)
    return _train_one(args)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="lorarar train-lora",
        description="Train a LoRA on a few images (DreamBooth), or every LoRA of a dataset.",
        epilog=f"modes:{_MODES_TEXT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    names = ", ".join([MINIATURE, *CONFIGS])
    add("--base", default=DEFAULT_BASE, help=f"{names}, a diffusers folder or a hub id (default {DEFAULT_BASE})")
    add("--images", type=Path, nargs="+", metavar="PATH", help="image files, or a folder of them")
    add("--prompt", help="what the images show, with the rare token or the style's description")
    add("--style-images", type=Path, nargs="+", metavar="PATH", help="joint training: the style's images")
    add("--style-prompt", help="joint training: what they show")
    add("--dataset", type=Path, metavar="DIR", help="train every missing LoRA of a dataset")
    add("--only", metavar="NAME,…", help="of the dataset, only these; contents or styles for all of them")
    add("--jobs", type=int, metavar="N", help="of the dataset, N LoRAs at a time (default 1)")
    add("-o", "--output", type=Path, metavar="FILE", help="the .safetensors file")
    add("--dtype", choices=DTYPES, default="fp32", help="number format of the output (default fp32)")
    add("--rank", type=int, metavar="R", help=f"rank of every layer {defaults_text('rank')}")
    add("--steps", type=int, metavar="N", help=f"optimizer steps {defaults_text('steps')}")
    add("--learning-rate", type=float, metavar="X", help=f"AdamW's, constant {defaults_text('learning_rate')}")
    add("--batch-size", type=int, metavar="N", help=f"images a step {defaults_text('batch_size')}")
    add("--accumulation", type=int, metavar="N", help="passes that a step is cut into, to save memory (default 1)")
    add("--seed", type=int, metavar="N", help="seed of the weights, noise and timesteps (default 0)")
    add("--resolution", type=int, metavar="PIXELS", help="side of the images (default: the dataset's or the base's)")
    add("--flip", action="store_true", default=None, help="learn each image mirrored too (not for asymmetric subjects)")
    add("--mixed-precision", choices=PRECISIONS, help="also the frozen weights' (default bf16 on a GPU, else no)")
    add("--gradient-checkpointing", action="store_true", default=None, help="less memory, a third more time")
    add("--untrained", action="store_true", help="a named base with random weights: a dry run only")
    add("--state", type=Path, metavar="FILE", help="write the state there, and go on from it when it exists")
    add("--state-every", type=int, default=DEFAULT_EVERY, metavar="N", help="steps between states (default 100)")
    return parser.parse_args(argv)


def _check_mode(args: argparse.Namespace) -> None:
    """Refuse options that don't belong together: each would silently change nothing."""
    single = {"--images": args.images, "--prompt": args.prompt, "--output": args.output}
    joint = {"--style-images": args.style_images, "--style-prompt": args.style_prompt}
    if args.dataset:
        for flag, value in (single | joint | {"--state": args.state}).items():
            if value is not None:
                raise InputError(f"{flag} and --dataset exclude each other; a dataset names its images and LoRA files")
    else:
        for flag, value in {"--only": args.only, "--jobs": args.jobs}.items():
            if value is not None:
                raise InputError(f"{flag} is for --dataset; give that, or leave {flag} out")
        for flag, value in single.items():
            if value is None:
                raise InputError(f"{flag} is missing; give --images, --prompt and --output, or --dataset")
        if (args.style_images is None) != (args.style_prompt is None):
            raise InputError("joint training needs both --style-images and --style-prompt; give both or neither")
    if args.jobs is not None and args.jobs < 1:
        raise InputError(f"--jobs is {args.jobs}; give a whole number of 1 or more")
    if args.state_every < 1:
        raise InputError(f"--state-every is {args.state_every}; give a whole number of 1 or more")


def _prepare(args: argparse.Namespace, resolution: int | None) -> _Run:
    """Settings, device and precision. Imports torch."""
    from lorarar.training.processes import process_state

    process = process_state()
    import torch

    settings = _settings(args, bf16=process.device.type == "cuda" and torch.cuda.is_bf16_supported())
    settings.check_processes(process.num_processes)
    dtype = {"no": "float32", "fp16": "float16", "bf16": "bfloat16"}[settings.mixed_precision]
    device = "cpu" if process.device.type == "cpu" else str(process.device)
    loading = Loading(args.base, args.untrained, args.resolution or resolution, dtype, device)
    return _Run(args, settings, loading, process.num_processes, process.is_main_process)


def _settings(args: argparse.Namespace, bf16: bool) -> LoraSettings:
    """The base's defaults with the options given."""
    names = ("rank", "steps", "learning_rate", "batch_size", "accumulation", "seed", "flip", "mixed_precision")
    given = {name: getattr(args, name) for name in (*names, "gradient_checkpointing")}
    defaults = replace(default_settings(args.base), mixed_precision="bf16" if bf16 else "no")
    return replace(defaults, **{name: value for name, value in given.items() if value is not None})


def _train_one(args: argparse.Namespace) -> int:
    images = find_images(args.images)
    style = find_images(args.style_images) if args.style_images else ()
    check_lora_output(args.output, *images, *style)
    run = _prepare(args, None)
    components = run.load()
    from lorarar.training.dreambooth import train_concepts
    from lorarar.training.examples import Concept

    concepts = [Concept(images, args.prompt), *([Concept(style, args.style_prompt)] if style else [])]
    losses: list[float] = []
    with run.watch.stage("train"), _progress(run.is_main, run.settings.steps) as advance:

        def on_step(_: int, loss: float) -> None:
            losses.append(loss)
            advance(loss)

        lora = train_concepts(
            components, concepts, run.settings, on_step=on_step, state=args.state, state_every=args.state_every
        )
    if run.is_main:
        write_lora(lora, args.output, dtype=args.dtype)
        _show(run, lora, losses)
    return EXIT_OK


def _train_dataset(args: argparse.Namespace) -> int:
    dataset = read_dataset(args.dataset)
    only = [name.strip() for name in args.only.split(",") if name.strip()] if args.only else []
    jobs = missing_jobs(dataset, only)
    if not jobs:
        print(f"{args.dataset}: every LoRA is there; nothing to train")
        return EXIT_OK
    run = _prepare(args, dataset.resolution)
    losses: dict[str, list[float]] = {job.name: [] for job in jobs}
    workers = min(args.jobs or 1, len(jobs))
    if workers > 1 and run.processes > 1:
        raise InputError("--jobs and a launch of several processes exclude each other; use one of them")
    with _progress(run.is_main, run.settings.steps * len(jobs)) as advance:

        def report(progress: Progress) -> None:
            losses[progress.name].append(progress.loss)
            advance(progress.loss)

        if workers == 1:
            components = run.load()
            with run.watch.stage("train"):
                train_here(jobs, components, run.settings, args.dtype, report)
        else:
            with run.watch.stage("train"):
                train_in_processes(jobs, run.loading, run.settings, args.dtype, workers, report)
    if run.is_main:
        _show_dataset(run, losses)
    return EXIT_OK


@contextmanager
def _progress(is_main: bool, steps: int) -> Iterator[Callable[[float], None]]:
    """A progress bar over all steps; yields what to call after each with its loss."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True, disable=not is_main) as bar:
        task = bar.add_task("training", total=steps, loss=float("nan"))
        yield lambda loss: bar.update(task, advance=1, loss=loss)


def _show(run: _Run, lora: LoRA, losses: Sequence[float]) -> None:
    """A short table: what was trained on what, how the loss went, what came out."""
    args, first_last = run.args, ends(losses)
    size = args.output.stat().st_size / 1e6
    rows = [
        ("images", f"{lora.metadata['lorarar_images']} at {lora.metadata['lorarar_resolution']} pixels"),
        ("prompt", lora.metadata["lorarar_prompt"]),
        *_setting_rows(run),
        ("loss", f"{sparkline(losses)}  {first_last[0]:.4f} → {first_last[1]:.4f}"),
        ("LoRA", f"{args.output}: {len(lora.layers)} layers of rank {lora.max_rank}, {args.dtype}, {size:.1f} MB"),
        ("time", str(run.watch)),
    ]
    _print_rows(rows)


def _show_dataset(run: _Run, losses: dict[str, list[float]]) -> None:
    rows = _setting_rows(run)
    for name, values in losses.items():
        first, last = ends(values)
        rows.append((name, f"{sparkline(values, 20)}  {first:.4f} → {last:.4f}"))
    _print_rows([*rows, ("LoRAs", f"{len(losses)} trained in {run.args.dataset}"), ("time", str(run.watch))])


def _setting_rows(run: _Run) -> list[tuple[str, str]]:
    settings = run.settings
    text = (
        f"rank {settings.rank}, {settings.steps} steps of {settings.batch_size}, learning rate "
        f"{settings.learning_rate:g}, seed {settings.seed}, {run.loading.dtype} on {run.loading.device}"
    )
    rows = [("base", run.args.base), ("training", text)]
    if run.args.untrained:
        rows.append(("note", "the base has random weights: this shows the mechanics, the LoRA means nothing"))
    return rows


def _print_rows(rows: Sequence[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for row in rows:
        table.add_row(*row)
    # Paths and names in square brackets are not markup, and long ones may wrap but not be cut.
    Console(markup=False, highlight=False, soft_wrap=True).print(table)


if __name__ == "__main__":
    run_command(main)
