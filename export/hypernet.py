"""Export the merger: the hypernetwork and the exact merge, as one artifact that a phone runs.

    python -m export.hypernet --target onnx|coreml|executorch [--base sdxl|koala-700m|koala-1b|FOLDER]
                              [--checkpoint H.safetensors | --untrained] [--rank R] [--precision P] [--out DIR]

Writes a bundle (manifest.json, the artifact, golden tensors) and checks it against PyTorch before it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorarar.command_line import EXIT_OK, Parser, run_command
from lorarar.errors import InputError
from lorarar.files import atomic_folder

if TYPE_CHECKING:
    from lorarar.hypernet.checkpoints import LoadedHypernet
    from lorarar.layout import Layout
    from runtime_py.check import CheckRow

MAX_RANK = 512  # merged rank 1024: beyond it a dense ΔW is smaller than its factors


def export_hypernet(
    target_name: str,
    layout: Layout,
    loaded: LoadedHypernet,
    out: Path,
    rank: int,
    precision: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[CheckRow]:
    """Write the merger's bundle to `out` and return its parity rows.

    Raises InputError for a combination that is not offered and FailedCheck when the artifact is not PyTorch's equal;
    `out` is then left as it was.
    """
    from export.components import write_component
    from export.graph import merger_graph
    from export.manifest import check_output, manifest, write_manifest
    from export.parity import measure
    from export.targets import find_target
    from export.tolerance import tolerance
    from lorarar.hypernet.graph import Merger

    target = find_target(target_name)
    precision = precision or target.default_precision
    tolerance("merger", target.name, precision)
    check_rank(rank)
    for group in layout.part("qo"):
        loaded.hypernet.input_layer(group.out_features)
    check_output(out)
    target.load()
    graph = merger_graph(loaded.hypernet, layout, target.name, rank)
    with atomic_folder(out) as folder:
        entry = write_component(folder, graph, target, precision, progress, Merger(loaded.hypernet, layout))
        data = manifest(target.name, precision, rank, layout, {"merger": entry}, loaded)
        write_manifest(folder, data)
        rows = measure(folder, "merger", progress)
        entry["parity"] = rows[0].parity().to_json()
        write_manifest(folder, data)
    return rows


def check_rank(rank: int) -> None:
    """InputError for a LoRA's rank that no export takes."""
    if not 1 <= rank <= MAX_RANK:
        raise InputError(f"--rank {rank} is out of range; valid are 1 to {MAX_RANK}")


def chosen_rank(base: str, given: int | None) -> int:
    """The rank given, checked; without one, that of the LoRAs that are trained for the base by default."""
    from lorarar.training.settings import default_settings

    rank = default_settings(base).rank if given is None else given
    check_rank(rank)
    return rank


def chosen_checkpoint(base: str, given: Path | None, untrained: bool) -> Path | None:
    """The checkpoint given; without one, and unless it should be untrained, the miniature's for the miniature."""
    from lorarar.base.names import MINIATURE, shipped_hypernet

    return shipped_hypernet() if given is None and not untrained and base == MINIATURE else given


def load_source(checkpoint: Path | None, untrained: bool, layout: Layout) -> LoadedHypernet:
    """The hypernetwork that the options name. An untrained one gets the input layers that the base needs."""
    from lorarar.hypernet.checkpoints import load_hypernet, untrained_hypernet
    from lorarar.hypernet.network import HypernetConfig

    if (checkpoint is not None) == untrained:
        raise InputError(
            "give either --checkpoint FILE (a trained hypernetwork) or --untrained (seeded random weights)"
        )
    if checkpoint is not None:
        return load_hypernet(checkpoint)
    widths = tuple(sorted({group.out_features for group in layout.part("qo")}))
    return untrained_hypernet(HypernetConfig(widths=widths))


def main(argv: Sequence[str] | None = None) -> int:
    from lorarar.base.names import BASES_HELP, DEFAULT_BASE
    from lorarar.training.settings import defaults_text

    parser = Parser(prog="python -m export.hypernet", description=__doc__.split("\n\n")[0])
    parser.add_argument("--target", required=True, help="onnx, coreml or executorch")
    parser.add_argument("--base", default=DEFAULT_BASE, help=BASES_HELP)
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="a trained hypernetwork (default: the miniature's, for it)"
    )
    parser.add_argument("--untrained", action="store_true", help="seeded random weights; recorded in the manifest")
    parser.add_argument("--rank", type=int, help=f"largest rank of a LoRA {defaults_text('rank')}")
    parser.add_argument("--precision", help="fp32 or fp16 (default: fp16 for coreml, fp32 for the others)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the bundle (default build/merger-BASE-TARGET-PRECISION)"
    )
    options = parser.parse_args(argv)

    from rich.console import Console

    from export.targets import find_target
    from lorarar.base.names import load_layout

    target = find_target(options.target)
    precision = options.precision or target.default_precision
    console = Console(stderr=True)
    with console.status("reading the base's layout") as status:
        layout = load_layout(options.base)
        checkpoint = chosen_checkpoint(options.base, options.checkpoint, options.untrained)
        loaded = load_source(checkpoint, options.untrained, layout)
        out = options.out or Path("build") / f"merger-{layout.base}-{target.name}-{precision}"
        rank = chosen_rank(options.base, options.rank)
        rows = export_hypernet(target.name, layout, loaded, out, rank, precision, status.update)
    _report(out, loaded, rows, target.dynamic_rank, rank)
    return EXIT_OK


def _report(out: Path, loaded: LoadedHypernet, rows: list[CheckRow], dynamic: bool, rank: int) -> None:
    from runtime_py.bundle import Bundle
    from runtime_py.check import print_table

    bundle = Bundle.open(out)
    learned, ruled = (sum(len(group.modules) for group in bundle.layout.part(part)) for part in ("qo", "kv"))
    rule = loaded.hypernet.config.kv_rule
    print(f"{learned} layers learned, {ruled} by the k/v rule ({rule}), in {len(bundle.layout.groups)} groups")
    for note in loaded.notes:
        print(note)
    if not loaded.trained:
        print("the hypernetwork is UNTRAINED: its coefficients mean nothing, only the arithmetic is shown")
    print(
        "any LoRA rank" if dynamic else f"LoRAs up to rank {rank}; shorter ranks are padded with zeros, which is exact"
    )
    print_table(bundle, rows)
    size = bundle.manifest["components"]["merger"]["bytes"] / 2**20
    print(f"{out} ({size:.1f} MB)")


if __name__ == "__main__":
    run_command(main)
