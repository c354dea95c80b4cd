"""`python -m runtime_py.mil show|run|trace PACKAGE`: look into a Core ML model, run it, see what operations make."""

from __future__ import annotations

import argparse
import csv
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lorarar.command_line import EXIT_OK, Parser, main_of, run_command
from lorarar.console import console, print_rows, print_table, progress
from lorarar.errors import InputError, describe_os_error
from lorarar.files import atomic_file, check_output, whole
from lorarar.images import on_white, open_image
from lorarar.settings import check_at_least
from runtime_py.mil.interpreter import OpTrace
from runtime_py.mil.program import Program
from runtime_py.mil.summary import summarise

OUTPUTS = "outputs.npz"
# Model.proto's specificationVersion → the system that first reads it.
_SYSTEMS = {6: "iOS 15", 7: "iOS 16", 8: "iOS 17", 9: "iOS 18"}


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(
        prog="python -m runtime_py.mil", description="Look into a Core ML model, and run ML programs anywhere."
    )
    commands = made.add_subparsers(dest="command", metavar="show|run|trace", required=True)
    show = commands.add_parser("show", help="what it takes, gives, computes and weighs, whatever kind of model it is")
    run_ = commands.add_parser("run", help="run an ML program")
    trace = commands.add_parser("trace", help="run it, and tell the range and the time of every operation")
    show.add_argument("package", type=Path, help="an .mlpackage, .mlmodel or .mlmodelc")
    for each in (run_, trace):
        each.add_argument("package", type=Path, help="an .mlpackage folder, or a compiled .mlmodelc")
        _add_run(each)
    run_.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="outputs.npz, and .png and labels.json where there are"
    )
    trace.add_argument("-o", "--out", type=Path, metavar="FILE", help="all operations as .csv, in order")
    trace.add_argument("--top", type=int, default=10, metavar="N", help="rows of each table (default 10)")
    return made


def _add_run(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add("--inputs", type=Path, metavar="FILE", help=".npz with an array for each input")
    add("--image", action="append", default=[], metavar="NAME=FILE", help="an input that is an image; may be repeated")
    add(
        "--random",
        type=int,
        metavar="SEED",
        help="fill other inputs: normal numbers, zeros of whole ones, open sizes least",
    )
    add("--function", metavar="NAME", help="of a package with several (default: its own default)")
    add(
        "--mode",
        choices=("fp16", "fp32"),
        default="fp16",
        help="round to the declared types (default), or never to fp16",
    )


def run(args: argparse.Namespace) -> int:
    """Do what the command says; raises InputError for anything the user can put right."""
    if args.command == "show":
        return _show(args.package)
    if args.random is not None:
        check_at_least(0, random=args.random)
    pairs = [_image(pair) for pair in args.image]
    if args.out is not None:
        out = args.out if args.command == "trace" else args.out / OUTPUTS
        pictures = [file for _, file in pairs]
        check_output(out, *filter(None, (args.inputs,)), *pictures, *whole(args.package))
    program = Program.open(args.package)
    if args.command == "run" and args.out is not None:
        for name in ("labels.json", *(_picture(name) for name in program.signature(args.function)[1])):
            check_output(args.out / name, *pictures)
    inputs = _inputs(args, program, pairs)
    return _run(args, program, inputs) if args.command == "run" else _trace(args, program, inputs)


def _show(path: Path) -> int:
    found = summarise(path)
    system = f" ({_SYSTEMS[found.version]} or newer)" if found.version in _SYSTEMS else ""
    console().print(f"{path}: {found.kind}, specification version {found.version}{system}")
    print_rows(found.details.items())
    for part in found.parts:
        print_table(("", "name", "type"), part.features, f"{part.name}: what an app sees", left=("", "name", "type"))
        counts = [
            (name, f"{count:,}", "" if name not in part.unknown else "unknown")
            for name, count in part.operations.most_common()
        ]
        if counts and found.kind in ("mlProgram", "pipeline"):
            print_table(("operation", "count", ""), counts, f"{part.name}: operations", left=("operation", ""))
        elif counts:
            print_table(("layer", "count"), [row[:2] for row in counts], f"{part.name}: layers", left=("layer",))
    sizes = [(name, f"{size:,}") for name, size in found.stored.most_common()]
    if sizes:
        print_table(("stored as", "bytes"), sizes, "constants", left=("stored as",))
    return EXIT_OK


def _image(pair: str) -> tuple[str, Path]:
    name, is_pair, file = pair.partition("=")
    if not is_pair:
        raise InputError(f"`image` is {pair!r}; give NAME=FILE")
    return name, Path(file)


def _inputs(args: argparse.Namespace, program: Program, images: Sequence[tuple[str, Path]]) -> dict[str, Any]:
    given: dict[str, Any] = {} if args.inputs is None else _arrays(args.inputs)
    for name, file in images:
        given[name] = program.fit_image(name, on_white(open_image(file)), args.function)
    return given if args.random is None else program.random_inputs(args.random, args.function) | given


def _arrays(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except OSError as error:
        raise InputError(describe_os_error(error)) from error
    except Exception as error:  # numpy raises what its zip and header readers do
        raise InputError(f"{path} is no .npz of arrays; write one with numpy.savez") from error


def _run(args: argparse.Namespace, program: Program, inputs: Mapping[str, Any]) -> int:
    with progress("running") as update:
        outputs = program.run(inputs, args.mode, args.function, progress=update)
    seen = program.seen(outputs, args.function)
    print_table(
        ("output", "type", "shape", "smallest", "mean", "largest"),
        [_row(name, value) for name, value in seen.items()],
        left=("output", "type", "shape"),
    )
    if args.out is not None:
        _save(args.out, outputs, seen)
    return EXIT_OK


def _row(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, np.ndarray):
        shown = (f"{number:.6g}" for number in (value.min(), value.mean(), value.max())) if value.size else ("", "", "")
        return (name, value.dtype.name, str(list(value.shape)), *shown)
    if isinstance(value, dict):
        best = sorted(value.items(), key=lambda item: -item[1])[:3]
        return (name, "probabilities", ", ".join(f"{label} {share:.3f}" for label, share in best), "", "", "")
    if isinstance(value, str | int):
        return (name, "label", str(value), "", "", "")
    return (name, f"image {value.mode}", f"{value.width}×{value.height}", "", "", "")


def _save(folder: Path, outputs: Mapping[str, Any], seen: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        name: value for name, value in outputs.items() if isinstance(value, np.ndarray) and value.dtype.kind != "U"
    }
    # Not by np.savez, which has parameters that an output may be named like.
    with atomic_file(folder / OUTPUTS) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, value in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, value, allow_pickle=False)
    labels = {name: value for name, value in seen.items() if isinstance(value, dict | str | int)}
    if labels:
        with atomic_file(folder / "labels.json") as temporary:
            temporary.write_text(json.dumps(labels, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, value in seen.items():
        if hasattr(value, "mode"):
            picture = value if value.mode != "F" else value.convert("L")
            with atomic_file(folder / _picture(name)) as temporary:
                picture.save(temporary, format="PNG")


def _picture(output: str) -> str:
    """Return the file of an output that is an image."""
    return f"{Path(output).name}.png"


def _trace(args: argparse.Namespace, program: Program, inputs: Mapping[str, Any]) -> int:
    check_at_least(1, top=args.top)
    results: list[OpTrace] = []
    with progress("running") as update:
        program.run(inputs, args.mode, args.function, trace=results, progress=update)
    if args.out is not None:
        _write_trace(args.out, results)
    broken = [each for each in results if each.infinities or each.nans]
    for title, rows in (
        ("not finite, in running order", broken[: args.top]),
        ("largest values", sorted(results, key=lambda each: -each.largest)[: args.top]),
        ("longest", sorted(results, key=lambda each: -each.seconds)[: args.top]),
    ):
        if rows:
            _print_trace(title, rows)
    whole = sum({each.position: each.seconds for each in results}.values())
    console().print(f"{len(results):,} float results, {len(broken):,} of them not finite; {whole:.3f} s")
    return EXIT_OK


def _print_trace(title: str, rows: Sequence[OpTrace]) -> None:
    columns = ("operation", "output", "type", "low", "high", "infinite", "NaN", "ms")
    cells = [
        (
            each.type,
            each.output,
            each.dtype,
            f"{each.low:.6g}",
            f"{each.high:.6g}",
            *map(str, (each.infinities, each.nans)),
            f"{1e3 * each.seconds:.2f}",
        )
        for each in rows
    ]
    print_table(columns, cells, title, left=("operation", "output", "type"))


def _write_trace(path: Path, results: Sequence[OpTrace]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*asdict(results[0])] if results else ["type"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(each) for each in results)


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
