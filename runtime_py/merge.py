"""Merge a content and a style LoRA file with a bundle's merger, as a phone does.

    lorarar merge --bundle BUNDLE CONTENT STYLE -o merged.safetensors [--coefficients-plot PNG]

Layers that both LoRAs have in the base's attention go through the artifact. The rest never reaches a phone's UNet, but
belongs to the file: layers that only one LoRA has are carried exactly, layers that both have follow the k/v rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lorarar import __version__
from lorarar.command_line import EXIT_OK, Parser, Stopwatch, run_command
from lorarar.errors import InputError
from lorarar.files import check_lora_output
from lorarar.layout import ROLES, UNET, Group, Layout, Packed, pack
from lorarar.lora import DTYPES, WRITERS, LoRA, LoraLayer, read_lora, write_lora
from lorarar.merging import LEARNED, RULE, Merged, MergeOptions, align, merge_rest
from runtime_py.backends import Session, open_session
from runtime_py.bundle import Bundle


def merger_inputs(bundle: Bundle, role: str, lora: LoRA) -> tuple[dict[str, np.ndarray], Packed]:
    """One LoRA as the merger's inputs, by name; padded to the bundle's rank where that is fixed.

    Raises InputError when the LoRA does not fit the base or the rank.
    """
    dtype = bundle.component("merger").inputs[0].dtype
    packed = pack(lora, bundle.layout, _input_rank(bundle, lora), dtype)
    return {f"{role}_{name}": tensor for name, tensor in packed.adapter.items()}, packed


def run_merger(
    bundle: Bundle, session: Session, content: LoRA, style: LoRA, options: MergeOptions
) -> dict[str, np.ndarray]:
    """The merger's outputs by name for two LoRAs; the scales are those of `options`."""
    inputs: dict[str, np.ndarray] = {
        "content_scale": np.array([options.content_scale], np.float32),
        "style_scale": np.array([options.style_scale], np.float32),
    }
    for role, lora in zip(ROLES, (content, style), strict=True):
        inputs |= merger_inputs(bundle, role, lora)[0]
    return session.run(inputs)


def merge_with_bundle(bundle: Bundle, session: Session, content: LoRA, style: LoRA, options: MergeOptions) -> Merged:
    """The whole merged LoRA: the artifact's layers, and the layers that the artifact does not carry.

    `options.rule` must be the bundle's own. Raises InputError for LoRAs that do not fit the base or each other, or when
    the artifact's result is not finite.
    """
    aligned = align(content, style, bundle.layout)
    outputs = run_merger(bundle, session, content, style, options)
    padded = {role: _input_rank(bundle, lora) for role, lora in zip(ROLES, (content, style), strict=True)}
    both = {pair.name for pair in aligned.pairs}
    layers: dict[str, LoraLayer] = {}
    kinds: dict[str, str] = {}
    coefficients: dict[str, np.ndarray] = {}
    for group, row, name in rows(bundle.layout):
        if name not in both:
            continue
        ranks = (content.layers[name].rank, style.layers[name].rank)
        layers[name] = _layer(outputs, group, row, ranks, padded["content"])
        kinds[name] = RULE
        if group.part == "qo":
            kinds[name] = LEARNED
            coefficients[name] = outputs[f"coefficients_{group.name}"][row].astype(np.float32)
    for outcome in merge_rest(aligned, options, skip=frozenset(layers)):
        layers[outcome.name], kinds[outcome.name] = outcome.layer, outcome.kind
    order = dict.fromkeys([*content.layers, *style.layers])
    merged = LoRA(
        {name: layers[name] for name in order},
        source="bundle merge",
        metadata=_metadata(bundle, session, content, style, options),
    )
    return Merged(merged, {name: kinds[name] for name in order}, coefficients, None, aligned.warnings)


def rows(layout: Layout) -> list[tuple[Group, int, str]]:
    """Every (group, row, full layer name) of a layout."""
    return [(group, row, UNET + module) for group in layout.groups for row, module in enumerate(group.modules)]


def _input_rank(bundle: Bundle, lora: LoRA) -> int:
    dynamic = isinstance(bundle.component("merger").inputs[0].shape[1], str)
    return lora.max_rank if dynamic else bundle.rank


def _layer(
    outputs: Mapping[str, np.ndarray], group: Group, row: int, ranks: tuple[int, int], content_rank: int
) -> LoraLayer:
    """One merged layer without the zero rows that padding left: content's first, style's from `content_rank` on."""
    kept = np.r_[0 : ranks[0], content_rank : content_rank + ranks[1]]
    down = outputs[f"adapter_{group.down}"][row][kept].astype(np.float32)
    up = outputs[f"adapter_{group.up}"][row][:, kept].astype(np.float32)
    if not (np.isfinite(down).all() and np.isfinite(up).all()):
        raise InputError(f"the merge of {group.modules[row]} is not finite in this bundle's precision; use fp32")
    return LoraLayer(down, up)


def _metadata(bundle: Bundle, session: Session, content: LoRA, style: LoRA, options: MergeOptions) -> dict[str, str]:
    network = bundle.manifest["hypernetwork"]
    facts = {
        "toolkit_version": __version__,
        "base": str(bundle.manifest["base"]),
        "method": "learned",
        "runtime": f"{session.runtime} {session.version}",
        "hypernet_source": network["source"],
        "hypernet_sha256": network["sha256"],
        "content": Path(content.source).name,
        "style": Path(style.source).name,
    }
    facts |= options.describe(frozenset({"rule"}))
    return {f"lorarar_{name}": text for name, text in facts.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="lorarar merge --bundle", description=__doc__.split("\n\n")[0])
    parser.add_argument("bundle", type=Path, help="the folder that python -m export.hypernet made")
    parser.add_argument("content", type=Path, help="the content LoRA: a file, or a folder with adapter_config.json")
    parser.add_argument("style", type=Path, help="the style LoRA")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the merged .safetensors file")
    parser.add_argument("--content-scale", type=float, default=1.0, help="strength of the content (default 1)")
    parser.add_argument("--style-scale", type=float, default=1.0, help="strength of the style (default 1)")
    parser.add_argument("--dialect", default="peft", help=f"{' or '.join(WRITERS)} (default %(default)s)")
    parser.add_argument("--dtype", default="fp32", help=f"{', '.join(DTYPES)} (default %(default)s)")
    parser.add_argument(
        "--coefficients-plot", type=Path, metavar="PNG", help="also draw the coefficients layer by layer"
    )
    options = parser.parse_args(argv)
    check_lora_output(options.output, options.content, options.style)

    from rich.console import Console

    watch = Stopwatch()
    with Console(stderr=True).status("opening and verifying the bundle"):
        with watch.stage("open"):
            bundle = Bundle.open(options.bundle)
        with watch.stage("read"):
            content, style = read_lora(options.content), read_lora(options.style)
        with watch.stage("load the merger"):
            session = open_session(bundle)
        rule = bundle.manifest["hypernetwork"]["kv_rule"]
        scales = MergeOptions(content_scale=options.content_scale, style_scale=options.style_scale, rule=rule)
        with watch.stage("merge"):
            merged = merge_with_bundle(bundle, session, content, style, scales)
        with watch.stage("write"):
            write_lora(merged.lora, options.output, dialect=options.dialect, dtype=options.dtype)
        if options.coefficients_plot is not None:
            from runtime_py.plot import plot_coefficients

            with watch.stage("plot"):
                plot_coefficients(bundle.layout, merged.coefficients or {}, options.coefficients_plot)
    _report(bundle, session, (content, style), merged, watch, options.output)
    return EXIT_OK


def _report(
    bundle: Bundle, session: Session, loras: tuple[LoRA, LoRA], merged: Merged, watch: Stopwatch, output: Path
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for role, lora in zip(ROLES, loras, strict=True):
        console.print(f"{role}: {Path(lora.source).name} ({', '.join(lora.notes)})")
    for warning in merged.warnings:
        console.print(f"warning: {warning}", style="yellow")
    table = Table(title=f"merged in {session.runtime} {session.version}")
    for column in ("layers", "count", "m_c median", "m_s median"):
        table.add_column(column, justify="left" if column == "layers" else "right")
    coefficients = merged.coefficients or {}
    for group in bundle.layout.part("qo"):
        pairs = [coefficients[UNET + module] for module in group.modules if UNET + module in coefficients]
        if pairs:
            medians = np.median(np.stack(pairs), axis=(0, 2))
            table.add_row(f"learned, {group.name}", str(len(pairs)), f"{medians[0]:.3f}", f"{medians[1]:.3f}")
    for kind in dict.fromkeys(merged.kinds.values()):
        if kind != LEARNED:
            table.add_row(kind, str(merged.count(kind)), "", "")
    console.print(table)
    console.print(str(watch))
    if session.note:
        console.print(session.note, style="dim")
    if not bundle.manifest["hypernetwork"]["trained"]:
        console.print("the hypernetwork is UNTRAINED: the coefficients mean nothing", style="yellow")
    console.print(f"{output} ({output.stat().st_size / 2**20:.1f} MB, rank {merged.lora.max_rank})")


if __name__ == "__main__":
    run_command(main)
