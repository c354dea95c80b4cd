"""Train LoRAs as the paper does: `lorarar train-lora --images DIR --prompt "a sks dog" -o FILE`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lorarar.base.names import CONFIGS, DEFAULT_BASE, MINIATURE, base_files, name_of
from lorarar.command_line import EXIT_OK, Parser, Stopwatch, add_settings, given_settings, main_of, run_command
from lorarar.console import print_rows, progress, warn
from lorarar.errors import InputError
from lorarar.files import check_lora_output
from lorarar.images import find_images
from lorarar.lora import DTYPES, LoRA, write_lora
from lorarar.settings import check_at_least, words
from lorarar.training.curve import ends, sparkline
from lorarar.training.dataset import DEFAULT_SPLIT, read_dataset
from lorarar.training.dataset_loras import (
    JobSettings,
    chosen_jobs,
    missing_jobs,
    otherwise_trained,
    train_jobs,
    training_words,
)
from lorarar.training.launch import BaseLoading, command_process, with_fastest_precision
from lorarar.training.settings import DEFAULT_EVERY, LoraSettings, check_state, default_settings
from lorarar.training.style_words import StyleWords

_MODES_TEXT = """
one LoRA:       --images DOG_PHOTOS --prompt "a sks dog" -o dog.safetensors
                a rare token names a subject, a description a style: "a house in watercolor painting style"
joint training: the same with --style-images and --style-prompt: one LoRA learns both (the paper's baseline)
a dataset:      --dataset DIR trains every LoRA of DIR/dataset.json whose file is missing, so it resumes
several GPUs:   accelerate launch -m lorarar.commands.train_lora …; the result is the same on any number of them, since
                --batch-size counts the images of all processes
"""
_SINGLE = ("images", "prompt", "out")
_NOT_OF_A_DATASET = (*_SINGLE, "subject_class", "style_images", "style_prompt", "state", "state_every")
_OF_A_DATASET = ("only", "jobs", "split")


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(
        "lorarar train-lora",
        description="Train a LoRA on a few images (DreamBooth), or every LoRA of a dataset.",
        epilog=f"modes:{_MODES_TEXT}",
    )
    add = made.add_argument
    named = f"with --untrained also {', '.join(CONFIGS)}"
    add("--base", default=DEFAULT_BASE, help=f"a diffusers folder or a hub id (default {DEFAULT_BASE}); {named}")
    add("--images", type=Path, nargs="+", metavar="PATH", help="image files, or a folder of them")
    add("--prompt", help="what the images show, with the rare token or the style's description")
    add("--subject-class", metavar="TEXT", help="of --styled: what the subject is without its token, such as 'a dog'")
    styles = "of --styled: words for styles, such as 'watercolor painting' (default of a dataset: its training styles')"
    add("--styles", nargs="+", metavar="TEXT", help=styles)
    add("--style-images", type=Path, nargs="+", metavar="PATH", help="joint training: the style's images")
    add("--style-prompt", help="joint training: what they show")
    add("--dataset", type=Path, metavar="DIR", help="train every missing LoRA of a dataset")
    add("--only", metavar="NAME,…", help="of the dataset, only these; contents or styles for all of them")
    add("--split", help=f"of --styled: the dataset's split whose training styles are told (default {DEFAULT_SPLIT})")
    add("--jobs", type=int, metavar="N", help="of the dataset, N LoRAs at a time (default 1)")
    add("--resolution", type=int, metavar="PIXELS", help="side of the images (default: the dataset's or the base's)")
    add("--untrained", action="store_true", help="a named base with random weights: a dry run only")
    add_settings(made, LoraSettings(), {MINIATURE: default_settings(MINIATURE)})
    add("--state", type=Path, metavar="FILE", help="write the state there, and go on from it when it exists")
    add("--state-every", type=int, metavar="N", help=f"steps between states (default {DEFAULT_EVERY})")
    add("-o", "--out", type=Path, metavar="FILE", help="the .safetensors file")
    add("--dtype", choices=DTYPES, default="fp32", help="number format of the output (default fp32)")
    return made


def run(args: argparse.Namespace) -> int:
    """Train one LoRA or a dataset's; raises InputError for anything the user can put right."""
    _check_mode(args)
    return _train_dataset(args) if args.dataset else _train_one(args)


def _check_mode(args: argparse.Namespace) -> None:
    """Refuse options that don't belong together: each would silently change nothing."""

    def given(names: Sequence[str]) -> list[str]:
        return [name for name in names if getattr(args, name) is not None]

    if args.dataset:
        for name in given(_NOT_OF_A_DATASET):
            raise InputError(f"`{name}` and `dataset` exclude each other; a dataset names its images and LoRA files")
    else:
        for name in given(_OF_A_DATASET):
            raise InputError(f"`{name}` is for `dataset`; give that, or leave `{name}` out")
        for name in _SINGLE:
            if getattr(args, name) is None:
                raise InputError(f"`{name}` is missing; give `images`, `prompt` and `out`, or `dataset`")
        if (args.style_images is None) != (args.style_prompt is None):
            raise InputError("joint training needs both `style_images` and `style_prompt`; give both or neither")
        args.state_every = check_state(args.state, args.state_every, args.out)
    if not args.styled:
        for name in given(("subject_class", "styles", "split")):
            raise InputError(f"`{name}` is for `styled`; give that, or leave `{name}` out")
    elif args.style_images is not None:
        raise InputError("`styled` is of one subject, and joint training learns a style too; leave one of them out")
    if args.styles and args.split:
        raise InputError("`styles` are the words that `split` would take from the dataset; leave one of them out")
    if args.jobs is not None:
        check_at_least(1, jobs=args.jobs)


class _Run:
    """What a training needs beside its images, and how long its stages took."""

    def __init__(self, args: argparse.Namespace, resolution: int | None = None) -> None:
        """Choose device and precision, and take the settings from the options. Imports torch."""
        self.args, self.watch, self.process = args, Stopwatch(), command_process()
        self.settings = given_settings(args, with_fastest_precision(default_settings(args.base), self.process))
        self.settings.check_processes(self.process.num_processes)
        precision = self.settings.mixed_precision
        resolution = resolution if args.resolution is None else args.resolution
        self.loading = BaseLoading.of(args.base, self.process, precision, resolution, args.untrained)


def _train_one(args: argparse.Namespace) -> int:
    learned_under = StyleWords(args.subject_class or "", tuple(args.styles or ())) if args.styled else None
    images = find_images(args.images)
    style = find_images(args.style_images) if args.style_images else ()
    check_lora_output(args.out, *images, *style, *base_files(args.base))
    run = _Run(args)
    # Not needed for --help: they import torch.
    from lorarar.training.dreambooth import train_lora
    from lorarar.training.examples import Concept

    with run.watch.stage("load"):
        components = run.loading.load()
    concepts = [Concept(images, args.prompt), *([Concept(style, args.style_prompt)] if style else [])]
    losses: list[float] = []
    steps, hidden = run.settings.steps, not run.process.is_main_process
    with run.watch.stage("train"), progress("training", steps, hidden=hidden) as update:

        def on_step(step: int, loss: float) -> None:
            losses.append(loss)
            update(step, note=f"loss {loss:.4f}")

        given = {"on_step": on_step, "state": args.state, "state_every": args.state_every}
        lora = train_lora(components, concepts, run.settings, words=learned_under, **given)
    if run.process.is_main_process:
        write_lora(lora, args.out, dtype=args.dtype)
        print_rows(_rows(run, lora, losses))
    return EXIT_OK


def _train_dataset(args: argparse.Namespace) -> int:
    dataset = read_dataset(args.dataset)
    only = words(args.only or "")
    if args.only is not None and not only:
        raise InputError("`only` names nothing; give names, `contents` or `styles`, or leave it out to train all")
    jobs = missing_jobs(dataset, only)
    resolution = dataset.resolution if args.resolution is None else args.resolution
    training = given_settings(args, default_settings(args.base))
    styles = tuple(args.styles or (training_words(dataset, args.split or DEFAULT_SPLIT) if training.styled else ()))
    asked = JobSettings(training, args.dtype, styles)
    warn(otherwise_trained(chosen_jobs(dataset, only), asked, {"base": name_of(args.base), "resolution": resolution}))
    if not jobs:
        print(f"{args.dataset}: every LoRA is there; nothing to train")
        return EXIT_OK
    run = _Run(args, dataset.resolution)
    if (args.jobs or 1) > 1 and run.process.num_processes > 1:
        raise InputError("`jobs` and a launch of several processes exclude each other; use one of them")
    settings = replace(asked, training=run.settings)
    losses: dict[str, list[float]] = {job.name: [] for job in jobs}
    steps, hidden = run.settings.steps * len(jobs), not run.process.is_main_process
    with run.watch.stage("train"), progress("training", steps, hidden=hidden) as update:

        def on_step(name: str, loss: float) -> None:
            losses[name].append(loss)
            update(sum(map(len, losses.values())), note=f"loss {loss:.4f}")

        train_jobs(jobs, run.loading, settings, args.jobs or 1, on_step)
    if run.process.is_main_process:
        curves = [(name, f"{sparkline(values, 20)}  {_ends(values)}") for name, values in losses.items()]
        made = ("LoRAs", f"{len(losses)} trained in {args.dataset}")
        print_rows([*_setting_rows(run), *curves, made, ("time", str(run.watch))])
    return EXIT_OK


def _rows(run: _Run, lora: LoRA, losses: Sequence[float]) -> list[tuple[str, str]]:
    """Return what was trained on what, how the loss went and what came out, for people."""
    args = run.args
    size = args.out.stat().st_size / 1e6
    return [
        ("images", f"{lora.metadata['lorarar_images']} at {lora.metadata['lorarar_resolution']} pixels"),
        ("prompt", lora.metadata["lorarar_prompt"]),
        *_setting_rows(run),
        ("loss", f"{sparkline(losses)}  {_ends(losses)}"),
        ("LoRA", f"{args.out}: {len(lora.layers)} layers of rank {lora.max_rank}, {args.dtype}, {size:.1f} MB"),
        ("time", str(run.watch)),
    ]


def _ends(losses: Sequence[float]) -> str:
    return "{:.4f} → {:.4f}".format(*ends(losses))


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


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
