"""Train the hypernetwork by Algorithm 1: `lorarar train --dataset DIR -o hypernet.safetensors`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorarar.base.names import CONFIGS, DEFAULT_BASE, MINIATURE, shipped_dataset
from lorarar.command_line import EXIT_OK, Parser, Stopwatch, run_command
from lorarar.errors import InputError
from lorarar.training.curve import sparkline
from lorarar.training.dataset import DEFAULT_SPLIT, Dataset, read_dataset
from lorarar.training.hyper_settings import (
    DISTANCES,
    KEEPS,
    PREDICTORS,
    REGULARISERS,
    SCHEDULES,
    HyperSettings,
    default_hyper_settings,
)
from lorarar.training.settings import DEFAULT_EVERY, PRECISIONS

if TYPE_CHECKING:
    from lorarar.training.history import Row
    from lorarar.training.trainer import Trained

_MORE_TEXT = """
beside the output are the curves, as .csv and .png. The checkpoint records every option.
several GPUs:  accelerate launch -m lorarar.commands.train …   (CPU processes: torchrun --nproc-per-node N -m …);
               the result is the same on any number: --batch-pairs counts the pairs of all processes
Table A3:      --learned q · k · v · out · k,v · q,k · k,out · q,v · q,out · v,out · …
"""
_PLAIN = ["predictor", "hidden", "kv_rule", "initial", "steps", "learning_rate", "lr_schedule", "warmup"]
_PLAIN += ["batch_pairs", "accumulation", "seed", "validate_every", "validation_draws", "keep"]
_PLAIN += ["mixed_precision", "gradient_checkpointing"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; raises InputError for anything the user can put right."""
    args = _parse(argv)
    _check_outputs(args)
    dataset = read_dataset(args.dataset or shipped_dataset())
    dataset.split(args.split)
    watch = Stopwatch()
    process, settings = _prepare(args)
    from lorarar.training.trainer import train_predictor

    with watch.stage("load"):
        components, layout, parts = _load(args, settings, dataset, str(process.device))
    about = {"base": layout.base, "dataset": dataset.name, "split": args.split, "untrained_base": args.untrained}
    with watch.stage("train"), _progress(process.is_main_process, settings.steps) as on_row:
        trained = train_predictor(
            components, layout, parts, settings, about, on_row=on_row, state=args.state, state_every=args.state_every
        )
    if process.is_main_process:
        _write(args.output, trained)
        _show(args, settings, trained, process, watch)
    return EXIT_OK


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="lorarar train",
        description="Train the hypernetwork that predicts merging coefficients, on the LoRAs of a dataset.",
        epilog=_MORE_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    paper, small = default_hyper_settings("sdxl"), default_hyper_settings(MINIATURE)

    def default(name: str) -> str:
        return f"(default {getattr(paper, name)}; miniature {getattr(small, name)})"

    add = parser.add_argument
    names = ", ".join([MINIATURE, *CONFIGS])
    add("--base", default=DEFAULT_BASE, help=f"{names}, a diffusers folder or a hub id (default {DEFAULT_BASE})")
    add("--dataset", type=Path, metavar="DIR", help="contents, styles, their LoRAs, splits (default: the miniature's)")
    add("--split", default=DEFAULT_SPLIT, help=f"a split of the dataset (default {DEFAULT_SPLIT})")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="the .safetensors checkpoint")
    add("--predictor", choices=PREDICTORS, help="constant: one pair for each kind of layer, an ablation")
    add("--learned", metavar="KINDS", help="layers with coefficients of their own: some of q,k,v,out (default q,out)")
    add("--kv-rule", metavar="RULE", help="average or sum, for layers that are not learned (default average)")
    add("--hidden", type=int, metavar="N", help=f"units of the hidden layer {default('hidden')}")
    add("--initial", type=float, metavar="X", help=f"coefficients at the start, 0.5 or 1 {default('initial')}")
    add("--steps", type=int, metavar="N", help=f"optimizer steps {default('steps')}")
    add("--learning-rate", type=float, metavar="X", help=f"AdamW's {default('learning_rate')}")
    add("--lr-schedule", choices=SCHEDULES, help=f"how it goes on {default('lr_schedule')}")
    add("--warmup", type=int, metavar="N", help=f"steps in which it rises {default('warmup')}")
    add("--batch-pairs", type=int, metavar="N", help=f"pairs a step {default('batch_pairs')}")
    add("--accumulation", type=int, metavar="N", help="passes that a step is cut into, to save memory (default 1)")
    add("--combinations", type=int, metavar="N", help=f"pairs used, 0 for all {default('combinations')}")
    add("--distance", choices=DISTANCES, help="mse (default), or the norm of Eq. 3")
    add("--regulariser", choices=REGULARISERS, help="how |m_c·m_s| is taken (default dot)")
    add("--lambda", type=float, dest="weight", metavar="X", help="its weight λ (default 0.01)")
    add("--seed", type=int, metavar="N", help="seed of the weights, pairs, noise and timesteps (default 0)")
    add("--validate-every", type=int, metavar="N", help=f"steps between validations {default('validate_every')}")
    add("--validation-draws", type=int, metavar="N", help="timesteps a validation pair (default 2)")
    add("--keep", choices=KEEPS, help=f"the weights of the lowest validation loss, or the last {default('keep')}")
    add("--resolution", type=int, metavar="PIXELS", help="side of the images (default: the dataset's)")
    add("--mixed-precision", choices=PRECISIONS, help="also the frozen weights' (default bf16 on a GPU, else no)")
    add("--gradient-checkpointing", action="store_true", default=None, help="less memory, a third more time")
    add("--untrained", action="store_true", help="a named base with random weights: a dry run only")
    add("--state", type=Path, metavar="FILE", help="write the state there, and go on from it when it exists")
    add("--state-every", type=int, default=DEFAULT_EVERY, metavar="N", help="steps between states (default 100)")
    return parser.parse_args(argv)


def _check_outputs(args: argparse.Namespace) -> None:
    if args.output.suffix != ".safetensors" or args.output.is_dir():
        raise InputError(f"{args.output}: a checkpoint is a file whose name ends with .safetensors")
    if args.state is not None and args.state.resolve() == args.output.resolve():
        raise InputError(f"{args.state}: --state and --output name one file; give each its own")
    if args.state_every < 1:
        raise InputError(f"--state-every is {args.state_every}; give a whole number of 1 or more")


def _settings(args: argparse.Namespace, bf16: bool) -> HyperSettings:
    """The base's defaults with the options given."""
    defaults = replace(default_hyper_settings(args.base), mixed_precision="bf16" if bf16 else "no")
    loss = {name: getattr(args, name) for name in ("distance", "regulariser", "weight")}
    given: dict[str, Any] = {name: getattr(args, name) for name in _PLAIN}
    given = {name: value for name, value in given.items() if value is not None}
    if args.learned is not None:
        given["learned"] = tuple(kind.strip() for kind in args.learned.split(","))
    if args.combinations is not None:
        given["combinations"] = args.combinations or None
    if "steps" in given and "warmup" not in given:
        # A short trial keeps its shape: the default's share of the steps.
        given["warmup"] = defaults.warmup * max(0, given["steps"]) // defaults.steps
    loss_given = {name: value for name, value in loss.items() if value is not None}
    return replace(defaults, **given, loss=replace(defaults.loss, **loss_given))


def _prepare(args: argparse.Namespace) -> tuple[Any, HyperSettings]:
    """This process's place in the launch, and the settings, which depend on its device. Imports torch."""
    from lorarar.training.processes import process_state

    process = process_state()
    import torch

    settings = _settings(args, bf16=process.device.type == "cuda" and torch.cuda.is_bf16_supported())
    settings.check_processes(process.num_processes)
    return process, settings


def _load(args: argparse.Namespace, settings: HyperSettings, dataset: Dataset, device: str) -> tuple[Any, Any, Any]:
    """The base's components, its layout, and the LoRAs and examples of the split."""
    import torch

    from lorarar.base.components import base_name, load_components
    from lorarar.base.names import unet_layout
    from lorarar.training.pair_data import load_parts

    components = load_components(
        args.base,
        untrained=args.untrained,
        resolution=args.resolution or dataset.resolution,
        dtype={"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[settings.mixed_precision],
        device=device,
    )
    layout = unet_layout(components.unet, base_name(components))
    parts = load_parts(components, layout, dataset, args.split, settings.combinations, settings.seed)
    return components, layout, parts


@contextmanager
def _progress(is_main: bool, steps: int) -> Iterator[Callable[[Row], None]]:
    """A progress bar over the steps, with the last training and validation loss."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("loss {task.fields[train]:.5f}, validation {task.fields[validation]:.5f}")
    columns = (BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not is_main) as bar:
        task = bar.add_task("training", total=steps, train=float("nan"), validation=float("nan"))

        def on_row(row: Row) -> None:
            shown: dict[str, Any] = {row.part: row.total}
            bar.update(task, advance=row.part == "train", **shown)

        yield on_row


def _write(output: Path, trained: Trained) -> None:
    """The curves, then the checkpoint, each whole or not at all."""
    from lorarar.hypernet.checkpoints import save_hypernet

    trained.history.write_csv(output.with_suffix(".csv"))
    trained.history.write_picture(output.with_suffix(".png"))
    save_hypernet(trained.predictor, output, training=trained.record)


def _show(args: argparse.Namespace, settings: HyperSettings, trained: Trained, process: Any, watch: Stopwatch) -> None:
    """A short table: what was trained on what, how the losses went, what came out."""
    from rich.console import Console
    from rich.table import Table

    history, record = trained.history, trained.record
    count = sum(parameter.numel() for parameter in trained.predictor.parameters())
    loss = settings.loss
    terms = f"{loss.distance}, λ {loss.weight:g} × {loss.regulariser}" if loss.regulariser != "none" else loss.distance
    rows = [
        ("base", f"{args.base}, {settings.mixed_precision} mixed precision, {process.num_processes} processes"),
        ("pairs", f"{record['pairs']} of {record['dataset']}, split {args.split}, {settings.batch_pairs} a step"),
        ("predictor", f"{settings.predictor} of {','.join(settings.learned)}, {count} parameters"),
        ("loss", f"{terms}; others by the rule ({settings.kv_rule})"),
        ("training", f"{settings.steps} steps, learning rate {settings.learning_rate:g}, seed {settings.seed}"),
        ("training loss", sparkline(history.totals())),
    ]
    for name, row in (("start", history.part("validation")[:1]), ("end", history.part("validation")[-1:])):
        rows += [(f"validation, {name}", f"content {r.content:.5f} + style {r.style:.5f}, step {r.step}") for r in row]
    rows += [(name, f"content + style {value:.5f}") for name, value in history.references.items()]
    if args.untrained:
        rows.append(("note", "the base has random weights: this shows the mechanics, the coefficients mean nothing"))
    kept = f"the best, of step {record['kept_step']}" if settings.keep == "best" else "the last step's"
    rows += [("checkpoint", f"{args.output} ({kept}), beside it .csv and .png"), ("time", str(watch))]
    table = Table(show_header=False, box=None)
    for pair in rows:
        table.add_row(*pair)
    Console(markup=False, highlight=False, soft_wrap=True).print(table)


if __name__ == "__main__":
    run_command(main)
