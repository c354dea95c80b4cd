"""Replace a hypernetwork by its mean coefficients: `lorarar means --hypernet FILE -o means.safetensors`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lorarar.base.names import (
    BASES_HELP,
    CONFIGS,
    DEFAULT_BASE,
    MINIATURE,
    MINIATURE_FOLDER,
    choose_checkpoint,
    choose_dataset,
    load_layout,
)
from lorarar.command_line import EXIT_OK, Parser, main_of, run_command
from lorarar.console import print_table, progress, warn
from lorarar.files import check_checkpoint_name, check_output, whole
from lorarar.lora import LoRA, open_lora
from lorarar.settings import check_at_least, check_seed
from lorarar.toolchains import require_torch
from lorarar.training.dataset import DEFAULT_SPLIT, read_dataset
from lorarar.training.hyper_settings import MEAN_PAIRS

if TYPE_CHECKING:
    from lorarar.training.means import KindMeans


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(
        "lorarar means",
        description="Replace a hypernetwork by the means of what it gives for a dataset's training pairs: one\n"
        "(m_c, m_s) for each kind of layer, the same for every pair. The checkpoint takes the network's place in\n"
        "merge, export and evaluate, and a phone needs no hypernetwork.",
    )
    add = made.add_argument
    add("--base", default=DEFAULT_BASE, help=BASES_HELP)
    add("--hypernet", type=Path, metavar="FILE", help="the trained network (default: the miniature's)")
    add("--dataset", type=Path, metavar="DIR", help="pairs of its training part are merged (default: the miniature's)")
    add("--split", default=DEFAULT_SPLIT, help="a split of the dataset (default %(default)s)")
    add("--pairs", type=int, default=MEAN_PAIRS, metavar="N", help="random pairs of it (default %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="seed of their choice (default %(default)s)")
    add("-o", "--out", type=Path, required=True, metavar="FILE", help="the .safetensors checkpoint")
    return made


def run(args: argparse.Namespace) -> int:
    """Merge the pairs, write the means and show them."""
    check_at_least(1, pairs=args.pairs)
    check_seed(args.seed)
    checkpoint, folder = choose_checkpoint(args.base, args.hypernet), choose_dataset(args.base, args.dataset)
    read = () if args.base in (MINIATURE, *CONFIGS) else (Path(args.base),)
    check_checkpoint_name(args.out)
    check_output(args.out, checkpoint, *whole(MINIATURE_FOLDER, *read), *filter(Path.is_file, whole(folder)))
    require_torch()
    # Not above: they import torch, which --help must not.
    from lorarar.hypernet.checkpoints import check_fits, load_predictor, save_hypernet
    from lorarar.training.means import constant_predictor, means_record, predictor_means, training_pairs

    loaded, layout = load_predictor(checkpoint), load_layout(args.base)
    warn(f"{loaded.source}: {note}" for note in loaded.warnings)
    check_fits(loaded.predictor, layout)
    dataset = read_dataset(folder)
    pairs = training_pairs(dataset, args.split, args.seed, args.pairs)
    with progress("merging", len(pairs)) as update:

        def opened() -> Iterator[tuple[LoRA, LoRA]]:
            for done, (content, style) in enumerate(pairs):
                update(done, note=f"{content.name}, {style.name}")
                yield open_lora(content.lora), open_lora(style.lora)

        means = predictor_means(loaded, opened(), layout)
    constants = constant_predictor(means, loaded.predictor.config.kv_rule)
    save_hypernet(constants, args.out, means_record(loaded, dataset, args.split, pairs))
    _show(args.out, loaded.source, means, len(pairs))
    return EXIT_OK


def _show(out: Path, source: str, means: Mapping[str, KindMeans], pairs: int) -> None:
    """Print the means by kind of layer, and between which two numbers those of the single pairs are."""
    rows = []
    for kind, found in means.items():
        spans = zip(found.by_pair.min(axis=0), found.by_pair.max(axis=0), strict=True)
        shown = [f"{mean:.3f} ({low:.3f}–{high:.3f})" for mean, (low, high) in zip(found.mean, spans, strict=True)]
        rows.append((kind, *shown))
    title = f"{source} · mean coefficients of {pairs} pairs (least–most of single pairs)"
    print_table(("layers", "content", "style"), rows, title, left=("layers",))
    print(f"{out}: {2 * len(means)} numbers, the same for every pair")


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
