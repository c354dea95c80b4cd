"""`--method ziplora` of `lorarar merge`: the one method that runs the base, on what the two LoRAs were trained on."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorarar.command_line import Stopwatch
from lorarar.errors import InputError
from lorarar.images import find_images
from lorarar.lora import LoRA
from lorarar.merging import Merged, Options
from lorarar.training.dataset import read_dataset
from lorarar.training.hyper_settings import DISTANCES, REGULARISERS, ZipSettings
from lorarar.training.settings import PRECISIONS

_GIVEN = ("content_images", "content_prompt", "style_images", "style_prompt")
_SETTINGS = {"zip_steps": "steps", "zip_learning_rate": "learning_rate", "mixed_precision": "mixed_precision"}
_SETTINGS |= {"gradient_checkpointing": "gradient_checkpointing"}
_LOSS = {"distance": "distance", "regulariser": "regulariser", "zip_lambda": "weight"}
_OTHERS = ("dataset", "resolution")


@dataclass(frozen=True)
class _Example:
    """What a LoRA was trained on."""

    images: tuple[Path, ...]
    prompt: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ziplora; none has a default of its own, so that one given to another method is noticed."""
    defaults = ZipSettings()
    group = parser.add_argument_group("ziplora", "what the two LoRAs were trained on, and how to optimise")
    add = group.add_argument
    add("--dataset", type=Path, metavar="DIR", help="a dataset that the two LoRA files belong to")
    add("--content-images", type=Path, nargs="+", metavar="PATH", help="or: image files or folders of the content")
    add("--content-prompt", metavar="P", help="and what it was trained on, such as 'a sks dog'")
    add("--style-images", type=Path, nargs="+", metavar="PATH", help="the same for the style")
    add("--style-prompt", metavar="P", help="such as 'a house in watercolor style'")
    add("--zip-steps", type=int, metavar="N", help=f"optimizer steps (default {defaults.steps}, the paper's)")
    add("--zip-learning-rate", type=float, metavar="X", help=f"AdamW's (default {defaults.learning_rate})")
    add("--zip-lambda", type=float, metavar="X", help=f"weight of |m_c·m_s| (default {defaults.loss.weight})")
    add("--regulariser", choices=REGULARISERS, help=f"how it is taken (default {defaults.loss.regulariser})")
    add("--distance", choices=DISTANCES, help=f"of the UNet's outputs (default {defaults.loss.distance})")
    add("--resolution", type=int, metavar="PIXELS", help="side of the images (default: the dataset's or the base's)")
    add("--mixed-precision", choices=PRECISIONS, help="also the frozen weights' (default bf16 on a GPU, else no)")
    add("--gradient-checkpointing", action="store_true", default=None, help="less memory, a third more time")


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse options of ziplora with another method, and ziplora without images and prompts."""
    if args.method != "ziplora":
        for name in (*_GIVEN, *_SETTINGS, *_LOSS, *_OTHERS):
            if getattr(args, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise InputError(f"{flag} means nothing to {args.method}; leave it out, or use it with ziplora")
        return
    given = [name for name in _GIVEN if getattr(args, name) is not None]
    if args.dataset is not None and given:
        raise InputError(f"--dataset and --{given[0].replace('_', '-')} exclude each other; give one of them")
    if args.dataset is None and len(given) < len(_GIVEN):
        raise InputError(
            "ziplora optimises on what the LoRAs were trained on: give --dataset DIR, or all of --content-images, "
            "--content-prompt, --style-images and --style-prompt"
        )


def merge_ziplora(args: argparse.Namespace, content: LoRA, style: LoRA, options: Options, watch: Stopwatch) -> Merged:
    """Load the base, optimise, merge; the stages' times go to `watch`. Raises InputError for what can't be used."""
    examples, resolution = _examples(args)
    settings = _settings(args, options)
    from lorarar.merging.ziplora import ziplora
    from lorarar.training.launch import process_state

    process = process_state()
    import torch

    from lorarar.base.components import load_components

    if args.mixed_precision is None and process.device.type == "cuda" and torch.cuda.is_bf16_supported():
        settings = replace(settings, mixed_precision="bf16")
    dtypes = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    with watch.stage("load the base"):
        components = load_components(
            args.base,
            untrained=args.untrained,
            resolution=args.resolution or resolution,
            dtype=dtypes[settings.mixed_precision],
            device=process.device,
        )
    with watch.stage(f"optimise {settings.steps} steps and merge"), _progress(settings.steps) as on_step:
        return ziplora(components, content, style, *examples, settings, options=options, on_step=on_step)


def _examples(args: argparse.Namespace) -> tuple[tuple[_Example, _Example], int | None]:
    """Images and prompts of both roles, and the dataset's resolution."""
    if args.dataset is None:
        content = _Example(find_images(args.content_images), args.content_prompt)
        return (content, _Example(find_images(args.style_images), args.style_prompt)), None
    dataset = read_dataset(args.dataset)
    found = []
    for path, entries in ((args.content, dataset.contents.values()), (args.style, dataset.styles.values())):
        match = [entry for entry in entries if entry.lora == path.resolve()]
        if not match:
            role = "content" if path is args.content else "style"
            raise InputError(f"{path} is the LoRA of no {role} in {args.dataset}; give its images and prompts instead")
        found.append(_Example(match[0].images, match[0].prompt))
    return (found[0], found[1]), dataset.resolution


def _settings(args: argparse.Namespace, options: Options) -> ZipSettings:
    def given(names: dict[str, str]) -> dict[str, Any]:
        return {field: getattr(args, name) for name, field in names.items() if getattr(args, name) is not None}

    defaults = ZipSettings()
    loss = replace(defaults.loss, **given(_LOSS))
    return replace(defaults, **given(_SETTINGS), loss=loss, seed=options.seed)


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[int, float], None]]:
    """A progress bar over the steps; yields what to call after each."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.5f}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("optimising", total=steps, loss=float("nan"))
        yield lambda step, loss: bar.update(task, completed=step, loss=loss)
