"""Generate, judge and tabulate: `lorarar evaluate --methods direct,learned --judge J -o OUT`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorarar.base.names import MINIATURE, choose_checkpoint, choose_dataset
from lorarar.command_line import EXIT_OK, Parser, add_settings, given_settings, main_of, run_command
from lorarar.console import print_table, progress, warn
from lorarar.errors import InputError, first_of
from lorarar.evaluation.method_names import (
    COMPOSED_START,
    DEFAULT_METHODS,
    LISTED,
    METHODS,
    SAMPLINGS,
    STYLE,
    entry_of,
    parse_hypernets,
    parse_methods,
    parts_of,
    sampling_of,
)
from lorarar.evaluation.results import RESULTS_FILE, Results, pool, read_results, write_results
from lorarar.evaluation.settings import EvaluationSettings, default_evaluation
from lorarar.evaluation.tables import Table, all_tables, remove_others, show, write_tables
from lorarar.files import check_folder, check_png, in_utf8
from lorarar.toolchains import TRAINING, named_if_missing
from lorarar.training.dataset import DEFAULT_SPLIT, JOINED, Dataset, read_dataset
from lorarar.training.launch import check_device

if TYPE_CHECKING:
    from lorarar.evaluation.run import Evaluation
    from lorarar.hypernet.checkpoints import LoadedPredictor

DTYPES = ("fp32", "fp16", "bf16")
# The test part is for final figures: whatever is chosen, tuned or compared as a design goes by validation.
JUDGED_PARTS = ("test", "validation")

_NOTES = """
what it writes into the output folder:
  images/METHOD/CONTENT--STYLE/00.png …   one folder a pair; a run that was stopped goes on where it was
  results.json                            every verdict, with the settings and the judge
  tables.md and one .csv a table          the paper's Tables 1, 2, A2 and A3, with 95 % intervals over both LoRAs
  grid_*.png, per_content.png, …          image grids like Fig. 9 and 10, bars like Fig. A7
  differences.png                         LoRA.rar minus each other method, with its intervals
Tables and pictures alone, without generating or judging anything:  --from OUT
The differences of several runs in one chart, by their tables:  --chart "1 image=OUT-1" "4 images=OUT-4" -o chart.png
What LoRA.rar's and ZipLoRA's coefficients depend on, in tables and a picture:  --coefficients
Three trainings of LoRA.rar: a run for each, with its --hypernet; then  --from OUT-0 OUT-1 OUT-2 -o OUT
Ablations (Table A3) belong on the validation part:  --part validation --hypernets q=q.safetensors,qo=qo.safetensors
"""
_DEFAULTS = {
    "base": MINIATURE,
    "methods": ",".join(DEFAULT_METHODS),
    "hypernets": "",
    "split": DEFAULT_SPLIT,
    "part": "test",
    "device": "auto",
}
"""Kept apart from the options, so that one that was given is noticed."""
_WITH_RESULTS = ("results", "out", "seed")
_WITH_CHART = ("chart", "out")


def parser() -> Parser:
    """Make the command's parser."""
    usual = {name: entry.summary for name, entry in METHODS.items()}
    usual[f"NAME{STYLE}X"] = "the style at strength X, as  lorarar merge --style-scale X"
    drawn = {f"NAME{sampling}": told for sampling, (_, told) in SAMPLINGS.items()}
    methods = "\n".join(f"  {name:<20}{told}" for name, told in (usual | drawn).items())
    made = Parser(
        "lorarar evaluate",
        description="Evaluate merging methods by MARS²: generate, judge, and make the paper's tables.",
        epilog=f"methods:\n{methods}\n{_NOTES}",
    )
    add = made.add_argument
    add("--base", help="the base: miniature, a diffusers folder or a hub id (default miniature)")
    add("--dataset", type=Path, metavar="DIR", help="the folder of dataset.json (default: the miniature's)")
    add("--methods", metavar="A,B,…", help=f"names, with commas (default {_DEFAULTS['methods']})")
    own = "of base miniature, the shipped one"
    add("--judge", metavar="J", help=f"an installed judge's name, or a folder or hub id (default: {own})")
    add("--hypernet", type=Path, metavar="FILE", help=f"the checkpoint of learned (default: {own})")
    add("--hypernets", metavar="NAME=FILE,…", help="more checkpoints, each a row of the ablations' table (NAME-acfg=…)")
    add("--split", help=f"a split of the dataset (default {DEFAULT_SPLIT})")
    add("--part", choices=JUDGED_PARTS, help="the split's part (default test; validation is for every choice)")
    add_settings(made, EvaluationSettings(), {MINIATURE: default_evaluation(MINIATURE)})
    add("--clip", metavar="M", help="CLIP for CLIP-I and CLIP-T: a folder or hub id, as openai/clip-vit-base-patch32")
    add("--dino", metavar="M", help="DINO: a folder or hub id, such as facebook/dino-vits16")
    add("--device", metavar="D", help="cpu, cuda or auto (default auto)")
    add("--dtype", choices=DTYPES, help="of the UNet and text encoders (default fp32 on a CPU, fp16 elsewhere)")
    told = "draw and judge nothing: write what the methods' coefficients depend on"
    add("--coefficients", action="store_const", const=True, help=told)
    more = "folders or results.json of runs: tables only; several that differ in their seeds are pooled"
    add("--from", dest="results", type=Path, nargs="+", metavar="RUN", help=more)
    add("--chart", nargs="+", metavar="TITLE=DIR", help="draw the differences of finished runs, by the tables in DIR")
    told = "the folder of the run; with --from, of the tables; with --chart, a .png file"
    add("-o", "--out", type=Path, metavar="DIR", help=told)
    return made


def run(args: argparse.Namespace) -> int:
    """Evaluate, or make the tables of a run again; raises InputError for anything the user can put right."""
    if args.chart is not None:
        return _draw_chart(args)
    _check(args)
    settings = given_settings(args, default_evaluation(args.base))
    if args.coefficients:
        return _tell_coefficients(args, settings)
    if args.results is not None:
        first = args.results[0]
        runs = [read_results(path) for path in args.results]
        # Of several runs, the first one's images are shown.
        results, shown, folder = pool(runs), runs[0], first if first.is_dir() else first.parent
    else:
        folder = args.out
        results = shown = _evaluate(args, settings)
        write_results(results, folder / RESULTS_FILE)
    # Not needed for --help: it imports Pillow and matplotlib.
    from lorarar.evaluation.grids import write_pictures

    out = args.out or folder
    # The tables of a kept run are drawn as its own were.
    tables = all_tables(results, settings.seed if args.seed is not None else shown.settings.get("seed", settings.seed))
    written = write_tables(tables, out)
    remove_others(tables, out)
    written += write_pictures(shown, {table.name: table for table in tables}, folder, out)
    _print(tables[0])
    print(f"{len(written)} tables and pictures in {out}: tables.md, grid_methods.png, …")
    return EXIT_OK


def _draw_chart(args: argparse.Namespace) -> int:
    """Draw the differences that the tables of finished runs have."""
    _check_alone(args, "chart", _WITH_CHART)
    if args.out is None:
        raise InputError("`out` is missing; name the picture, for example  -o chart.png")
    check_png(args.out)
    # Not needed for --help: it imports matplotlib.
    from lorarar.evaluation.charts import draw_differences, read_panel

    panels = []
    for text in args.chart:
        title, _, name = ("", "", text) if Path(text).is_dir() else text.rpartition("=")
        panels.append(read_panel(Path(name), in_utf8(title or Path(name).resolve().name)))
    draw_differences(panels, args.out)
    print(f"{args.out}: {sum(len(panel.rows) for panel in panels)} differences")
    return EXIT_OK


def _check_alone(args: argparse.Namespace, what: str, options: Sequence[str]) -> None:
    """Refuse options of generating and judging with one that does neither."""
    for name, value in vars(args).items():
        if value is not None and name not in options:
            raise InputError(f"with `{what}` nothing is generated or judged; leave `{name}` out")


def _check(args: argparse.Namespace) -> None:
    """Refuse options that can't apply, and fill in the defaults."""
    if args.results is not None:
        _check_alone(args, "results", _WITH_RESULTS)
        if len(args.results) > 1 and args.out is None:
            raise InputError("tables of several runs belong to none of them; name their folder, as  -o results")
    elif args.out is None:
        raise InputError("`out` is missing; name the folder of this run, for example  -o results")
    if args.out is not None:
        check_folder(args.out, RESULTS_FILE)
    names = ("judge", "images", "clip", "dino", "steps", "guidance", "guidance_rescale", "batch", "composed_share")
    drawing = [name for name in names if getattr(args, name) is not None]
    if args.coefficients and drawing:
        raise InputError(f"with `coefficients` nothing is drawn or judged; leave `{drawing[0]}` out")
    if args.coefficients and args.methods is None:
        args.methods = "" if args.hypernets else "learned"
    for name, value in _DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.methods, args.hypernets = parse_methods(args.methods), parse_hypernets(args.hypernets)
    _check_methods(args)
    if args.results is None and not args.coefficients and args.judge is None:
        if args.base != MINIATURE:
            raise InputError(
                "`judge` is missing: give a vision-language model's folder or hub id; the miniature's judge, "
                f"{MINIATURE}, knows its own drawn world alone"
            )
        args.judge = MINIATURE


def _check_methods(args: argparse.Namespace) -> None:
    """Refuse no methods, options of methods that are not there, and methods without what is asked for."""
    if not args.methods and not args.hypernets:
        raise InputError(f"`methods` is empty; valid are {LISTED}")
    learned = [name for name, entry in METHODS.items() if entry.hypernet]
    merges = {parts_of(name).own for name in args.methods}
    for name, methods in {"zip_steps": ["ziplora"], "joint_steps": ["joint"], "hypernet": learned}.items():
        if getattr(args, name) is not None and not merges & set(methods):
            raise InputError(f"`{name}` is for {', '.join(methods)}; leave it out, or add such a method to `methods`")
    if args.results is None and any(METHODS[own].hypernet for own in merges):
        args.hypernet = choose_checkpoint(args.base, args.hypernet)
    if args.coefficients:
        without = [name for name in args.methods if not METHODS[parts_of(name).own].coefficients]
        if without:
            known = ", ".join(name for name, entry in METHODS.items() if entry.coefficients)
            raise InputError(f"{without[0]} has no coefficients; `methods` with `coefficients` are {known}")
    if args.composed_share is not None and COMPOSED_START not in map(sampling_of, [*args.methods, *args.hypernets]):
        raise InputError(
            f"`composed_share` is for methods with {COMPOSED_START}; leave it out, or add one to `methods`"
        )


def _evaluate(args: argparse.Namespace, settings: EvaluationSettings) -> Results:
    # What can be wrong is looked at in the order of its price: files, judge, checkpoints, base, then the hours of work.
    dataset, device = _prepare(args)
    # Not needed for --help: they import torch.
    from lorarar.evaluation.judges import load_judge
    from lorarar.evaluation.metrics import choose_embedder
    from lorarar.evaluation.run import generate_all, judge_all, missing_images

    judge = load_judge(args.judge, device, settings.batch)
    embedder = choose_embedder(judge, args.clip, args.dino, device)
    evaluation = _open(args, settings, dataset, device)
    with progress("generating", missing_images(evaluation)) as update:
        generate_all(evaluation, lambda text, done: update(done, text=text))
    with progress("judging", len(evaluation.pairs) * len(evaluation.methods) * settings.images) as update:
        return judge_all(evaluation, judge, embedder, lambda text, done: update(done, text=text))


def _tell_coefficients(args: argparse.Namespace, settings: EvaluationSettings) -> int:
    """Merge every pair without drawing it, and write what the coefficients depend on."""
    dataset, device = _prepare(args)
    # Not needed for --help: it imports torch.
    from lorarar.evaluation.coefficients import gather, write

    evaluation = _open(args, settings, dataset, device)
    with progress("merging", len(evaluation.pairs) * len(evaluation.methods)) as update:
        found = gather(evaluation, lambda text, done: update(done, text=text))
    table, *_ = write(found, args.out)
    _print(table)
    print(f"{args.out}: coefficients.md, coefficients.png, and a CSV of each table")
    return EXIT_OK


def _prepare(args: argparse.Namespace) -> tuple[Dataset, str]:
    """Read the dataset and check its LoRAs; return it, and the device to work on."""
    dataset = read_dataset(choose_dataset(args.base, args.dataset))
    with named_if_missing(TRAINING, "train"):
        # Not needed for --help: it imports torch.
        from lorarar.evaluation.methods import sampled_pairs
    pairs = sampled_pairs(dataset, args.split, args.part)
    if args.hypernets or any(entry.loras for name in args.methods if (entry := entry_of(name))):
        dataset.check_loras(entry for pair in pairs for entry in pair)
    return dataset, check_device(args.device)


def _open(args: argparse.Namespace, settings: EvaluationSettings, dataset: Dataset, device: str) -> Evaluation:
    """Open the checkpoints and the base."""
    # Not needed for --help: they import torch.
    from lorarar.evaluation.run import open_evaluation
    from lorarar.hypernet.checkpoints import load_predictor

    checkpoints = {name: load_predictor(Path(path)) for name, path in args.hypernets.items()}
    learned = [name for name in args.methods if METHODS[parts_of(name).own].hypernet]
    if learned:
        checkpoints |= dict.fromkeys(learned, load_predictor(args.hypernet))
    for loaded in {loaded.sha256: loaded for loaded in checkpoints.values()}.values():
        _refuse_trained_on(loaded, dataset, args.split, args.part)
        warn(f"{loaded.source}: {note}" for note in loaded.warnings)
    methods = {name: checkpoints.get(name) for name in [*args.methods, *args.hypernets]}
    dtype = args.dtype or ("fp32" if device == "cpu" else "fp16")
    return open_evaluation(
        args.out, args.base, dataset, args.split, args.part, settings, methods, device=device, dtype=dtype
    )


def _refuse_trained_on(loaded: LoadedPredictor, dataset: Dataset, split: str, part: str) -> None:
    """Refuse a checkpoint that learned from contents or styles of the part that is evaluated."""
    means = loaded.training.get("means")
    for training in (loaded.training, means if isinstance(means, dict) else {}):
        _refuse_part_of(training, loaded.source, dataset, split, part)


def _refuse_part_of(training: Mapping[str, Any], source: str, dataset: Dataset, split: str, part: str) -> None:
    """Refuse a part that has contents or styles of the training part of the dataset and split that a record names."""
    learned = str(training.get("split"))
    datasets, name = (f"{JOINED}{text}{JOINED}" for text in (training.get("dataset"), dataset.name))
    if name not in datasets or learned not in dataset.splits:
        return
    trained = {entry.name for role in dataset.part(learned, "train") for entry in role}
    both = [entry.name for role in dataset.part(split, part) for entry in role if entry.name in trained]
    if both:
        raise InputError(
            f"{source} was trained on the split {learned!r}, with {len(both)} of the contents and styles of the "
            f"{part} part of {split!r} ({first_of(both)}); give a `hypernet` of this split, or another `split`"
        )


def _print(table: Table) -> None:
    # The interval under its estimate: side by side they need more than a terminal's 80 columns.
    rows = [[show(cell).replace(" [", "\n[") for cell in row] for row in table.rows]
    print_table(table.columns, rows, table.title, left=table.columns[:1])
    print(table.note)


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
