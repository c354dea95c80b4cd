"""Train the hypernetwork by Algorithm 1: `lorarar train --dataset DIR -o hypernet.safetensors`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorarar.base.names import CONFIGS, DEFAULT_BASE, MINIATURE, base_files, choose_dataset
from lorarar.command_line import EXIT_OK, Parser, Stopwatch, add_settings, given_settings, main_of, run_command
from lorarar.console import console, print_rows, print_table, progress, status
from lorarar.errors import InputError
from lorarar.files import check_checkpoint_name, check_output
from lorarar.images import images_below
from lorarar.training.curve import sparkline
from lorarar.training.dataset import DEFAULT_SPLIT, Content, Dataset, Style, joined, read_dataset
from lorarar.training.hyper_settings import HyperSettings, check_weighed, default_hyper_settings
from lorarar.training.launch import BaseLoading, command_process, with_fastest_precision
from lorarar.training.settings import DEFAULT_EVERY, LoraSettings, check_state

if TYPE_CHECKING:
    from lorarar.training.history import HistoryRow
    from lorarar.training.trainer import Trained, TrainingInputs

_MORE_TEXT = """
beside the output are the curves, as .csv and .png. The checkpoint records every option.
several GPUs:  accelerate launch -m lorarar.commands.train …   (CPU processes: torchrun --nproc-per-node N -m …);
               the result is the same on any number: --batch-pairs counts the pairs of all processes
Table A3:      --learned q · k · v · out · k,v · q,k · k,out · q,v · q,out · v,out · …
"""


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(
        "lorarar train",
        description="Train the hypernetwork that predicts merging coefficients, on the LoRAs of a dataset.",
        epilog=_MORE_TEXT,
    )
    add = made.add_argument
    named = f"with --untrained or --plan also {', '.join(CONFIGS)}"
    add("--base", default=DEFAULT_BASE, help=f"a diffusers folder or a hub id (default {DEFAULT_BASE}); {named}")
    add("--dataset", type=Path, metavar="DIR", help="contents, styles, their LoRAs, splits (default: the miniature's)")
    more = "datasets whose training and validation parts are added, as those of  lorarar miniature wide"
    add("--more", type=Path, nargs="+", metavar="DIR", help=more)
    add("--split", help=f"a split of the dataset (default {DEFAULT_SPLIT})")
    add("--resolution", type=int, metavar="PIXELS", help="side of the images (default: the dataset's)")
    add("--untrained", action="store_true", help="a named base with random weights: a dry run only")
    add(
        "--plan",
        type=int,
        nargs="?",
        const=LoraSettings().rank,
        metavar="RANK",
        help="only count the device's memory, for LoRAs of this rank (default %(const)s); no weights are needed",
    )
    add_settings(made, default_hyper_settings("sdxl"), {MINIATURE: default_hyper_settings(MINIATURE)})
    add(
        "--joint-images",
        type=Path,
        metavar="DIR",
        help="images of pairs for the joint term, in folders CONTENT--STYLE as evaluate writes them (composed: if any)",
    )
    add("--state", type=Path, metavar="FILE", help="write the state there, and go on from it when it exists")
    add("--state-every", type=int, metavar="N", help=f"steps between states (default {DEFAULT_EVERY})")
    add("-o", "--out", type=Path, metavar="FILE", help="the .safetensors checkpoint")
    return made


def run(args: argparse.Namespace) -> int:
    """Train; raises InputError for anything the user can put right."""
    _check(args)
    if args.plan is not None:
        return _plan(args)
    dataset = joined(
        [read_dataset(folder) for folder in (choose_dataset(args.base, args.dataset), *(args.more or ()))], args.split
    )
    _check_outputs(args, dataset)
    process = command_process()
    # Later than the cheap checks, and not needed for --help: the trainer imports torch.
    from lorarar.training.trainer import load_inputs, train_predictor

    settings = _settings(args, process)
    resolution = dataset.resolution if args.resolution is None else args.resolution
    loading = BaseLoading.of(args.base, process, settings.mixed_precision, resolution, args.untrained)
    watch = Stopwatch()
    with watch.stage("load"):
        inputs = load_inputs(loading, dataset, args.split, settings, args.joint_images)
    losses = {"train": float("nan"), "validation": float("nan")}
    with watch.stage("train"), progress("training", settings.steps, hidden=not process.is_main_process) as update:

        def on_row(row: HistoryRow) -> None:
            losses[row.part] = row.total
            update(row.step, note=f"loss {losses['train']:.5f}, validation {losses['validation']:.5f}")

        trained = train_predictor(inputs, settings, on_row=on_row, state=args.state, state_every=args.state_every)
    if process.is_main_process:
        trained.save(args.out)
        print_rows([*_rows(args, settings, inputs, trained, process), ("time", str(watch))])
    return EXIT_OK


def _check_outputs(args: argparse.Namespace, dataset: Dataset) -> None:
    """Refuse a checkpoint or curves that can't be written, or would overwrite what is trained on."""
    entries: list[Content | Style] = [*dataset.contents.values(), *dataset.styles.values()]
    given = [path for entry in entries for path in (entry.lora, *entry.images)]
    given += images_below(args.joint_images) if args.joint_images else ()
    given += base_files(args.base)
    for output in _outputs(args.out):
        check_output(output, *given)


def _outputs(out: Path) -> tuple[Path, ...]:
    """Return the files that a training writes: the checkpoint, and its curves as numbers and as a picture."""
    return out, out.with_suffix(".csv"), out.with_suffix(".png")


def _settings(args: argparse.Namespace, process: Any) -> HyperSettings:
    """Return the training's settings; InputError for a batch that the processes can't share."""
    defaults = with_fastest_precision(default_hyper_settings(args.base), process)
    if args.steps is not None and args.warmup is None:
        # A short trial keeps its shape: the default's share of the steps. A longer training is that one, continued, as
        # any is that has risen to a constant rate.
        args.warmup = defaults.warmup * min(max(0, args.steps), defaults.steps) // defaults.steps
        if (args.lr_schedule or defaults.lr_schedule) == "constant" and args.steps > defaults.warmup:
            args.warmup = defaults.warmup
    settings = given_settings(args, defaults)
    settings.check_processes(process.num_processes)
    return settings


def _check(args: argparse.Namespace) -> None:
    """Refuse outputs that can't be written, and options that can't apply."""
    of_training = [
        name for name in ("out", "state", "joint_images", "more", "split") if getattr(args, name) is not None
    ]
    of_training += ["untrained"] * args.untrained
    if args.plan is not None and of_training:
        raise InputError(f"`plan` trains nothing, so `{of_training[0]}` can't apply; leave one of them out")
    args.split = DEFAULT_SPLIT if args.split is None else args.split
    if args.plan is None and args.out is None:
        raise InputError("there is no file for the checkpoint; give `out`, or `plan` to count the memory alone")
    if args.out is not None:
        check_checkpoint_name(args.out)
    args.state_every = check_state(args.state, args.state_every, *(_outputs(args.out) if args.out else ()))
    of_network = [name for name in ("hidden", "positions", "normalise") if getattr(args, name)]
    if args.predictor == "constant" and of_network:
        raise InputError(f"constant coefficients have no network; leave `{of_network[0]}` out")
    if args.column_rate is not None and not args.columns:
        raise InputError("`column_rate` is of the columns' own coefficients; leave it out, or give `columns`")
    check_weighed(args.regulariser, args.weight)
    joint = args.joint or default_hyper_settings(args.base).loss.joint
    if joint != "composed" and args.joint_style is not None:
        raise InputError("`joint_style` is of the composed answer; leave it out, or give `joint` composed")
    of_joint = [name for name in ("joint_weight", "joint_guidance") if getattr(args, name) is not None]
    if joint == "none" and of_joint:
        raise InputError(f"`{of_joint[0]}` is of the joint term; leave it out, or give `joint`")


def _plan(args: argparse.Namespace) -> int:
    """Count the memory of the training, and print it."""
    process = command_process()
    # Here, since it imports torch.
    from lorarar.training.plan import plan_training

    settings, resolution = _settings(args, process), args.resolution
    if resolution is None and args.dataset is not None:
        resolution = read_dataset(args.dataset).resolution
    # A process takes its share of the pairs.
    share = replace(settings, batch_pairs=settings.batch_pairs // process.num_processes)
    with status("counting"):
        planned = plan_training(args.base, share, args.plan, resolution)
    kept = sum(planned.networks.values())
    rows = [(name, f"{size / 1e9:.2f} GB", "") for name, size in planned.networks.items()]
    one_pass = f"a pass of {planned.pairs} pair{'s' * (planned.pairs > 1)}"
    for what, beside in ((one_pass, planned.step), ("encoding images", planned.encoding)):
        rows.append((what, f"{beside / 1e9:.2f} GB", f"{(kept + beside) / 1e9:.2f} GB"))
    side = f"{planned.pixels}×{planned.pixels}"
    saved = " · checkpointing" if settings.gradient_checkpointing else ""
    title = f"{args.base} · {side} · rank {args.plan} · {settings.mixed_precision} mixed precision{saved}"
    print_table(("on the device", "takes", "with the networks"), rows, title, left=("on the device",))
    console().print(
        f"at least {planned.most / 1e9:.1f} GB, and on a GPU its context and the allocator's gaps; fewer pairs at once "
        "(--accumulation) and --gradient-checkpointing take less"
    )
    return EXIT_OK


def _rows(
    args: argparse.Namespace, settings: HyperSettings, inputs: TrainingInputs, trained: Trained, process: Any
) -> list[tuple[str, str]]:
    """Return what was trained on what, how the losses went and what came out, for people."""
    history, record, loss = trained.history, trained.record, settings.loss
    count = sum(parameter.numel() for parameter in trained.predictor.parameters())
    told = [name for name in ("positions", "columns") if getattr(settings, name)]
    kind = settings.predictor + (f" with {' and '.join(told)}" if told else "")
    terms = f"{loss.distance}, λ {loss.weight:g} × {loss.regulariser}" if loss.regulariser != "none" else loss.distance
    if loss.joint != "none":
        terms += f" + {loss.joint_weight:g} × joint ({loss.joint})"
    rows = [
        ("base", f"{args.base}, {settings.mixed_precision} mixed precision, {process.num_processes} processes"),
        ("pairs", f"{record['pairs']} of {record['dataset']}, split {args.split}, {settings.batch_pairs} a step"),
        ("predictor", f"{kind} of {','.join(settings.learned)}, {count} parameters"),
        ("loss", f"{terms}; others by the rule ({settings.kv_rule})"),
        ("training", f"{settings.steps} steps, learning rate {settings.learning_rate:g}, seed {settings.seed}"),
        ("training loss", sparkline(history.totals())),
    ]
    for name, row in (("start", history.part("validation")[:1]), ("end", history.part("validation")[-1:])):
        rows += [(f"validation, {name}", f"content {r.content:.5f} + style {r.style:.5f}, step {r.step}") for r in row]
    rows += [(name, f"content + style {value:.5f}") for name, value in history.references.items()]
    if inputs.about["untrained_base"]:
        rows.append(("note", "the base has random weights: this shows the mechanics, the coefficients mean nothing"))
    kept = f"the best, of step {record['kept_step']}" if settings.keep == "best" else "the last step's"
    return [*rows, ("checkpoint", f"{args.out} ({kept}), beside it .csv and .png")]


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
