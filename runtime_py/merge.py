"""Merge a content and a style LoRA with a bundle's merger, as a phone does: in memory, or two files into one.

One LoRA can also be written as an `.onnx_adapter` file, which ONNX Runtime maps into memory and gives to the merger.
Layers that both LoRAs have in the base's attention go through the artifact. The others never reach a phone's UNet, but
they belong to the file: those that only one LoRA has are carried exactly, those that both have follow the k/v rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lorarar import __version__
from lorarar.errors import InputError
from lorarar.files import check_lora_output
from lorarar.layout import ROLES, UNET, Group, Layout, Packed, pack
from lorarar.lora import LoRA, LoraLayer, read_lora, write_lora
from lorarar.merging import LEARNED, RULE, Merged, MergeOptions, align, merge_rest
from runtime_py.backends import Runner, load_backend, open_runner
from runtime_py.backends.onnx import save_adapter
from runtime_py.plot import plot_coefficients
from runtime_py.stages import OnStage, timed

if TYPE_CHECKING:
    from runtime_py.bundle import Bundle


def merger_inputs(bundle: Bundle, role: str, lora: LoRA) -> tuple[dict[str, np.ndarray], Packed]:
    """Return one LoRA as the merger's inputs, by name; padded to the bundle's rank where that is fixed.

    Raises InputError when the LoRA does not fit the base or the rank.
    """
    dtype = bundle.component("merger").inputs[0].dtype
    packed = pack(lora, bundle.layout, _input_rank(bundle, lora), dtype)
    return {f"{role}_{name}": tensor for name, tensor in packed.adapter.items()}, packed


def write_adapter(bundle: Bundle, lora: LoRA, role: str, out: Path) -> Packed:
    """Write a LoRA as the `role` (content or style) of a bundle's merger, and return what the file carries.

    Raises InputError for a bundle of another target than onnx, a LoRA that does not fit it, and where ONNX Runtime is
    not installed.
    """
    target = bundle.manifest["target"]
    if target != "onnx":
        raise InputError(f"{bundle.path} is for {target}; only onnx bundles take .onnx_adapter files")
    load_backend(target)
    tensors, packed = merger_inputs(bundle, role, lora)
    save_adapter(tensors, out)
    return packed


def run_merger(
    bundle: Bundle, runner: Runner, content: LoRA, style: LoRA, options: MergeOptions
) -> dict[str, np.ndarray]:
    """Run the merger on two LoRAs and return its outputs by name; the scales are those of `options`."""
    inputs: dict[str, np.ndarray] = {
        "content_scale": np.array([options.content_scale], np.float32),
        "style_scale": np.array([options.style_scale], np.float32),
    }
    for role, lora in zip(ROLES, (content, style), strict=True):
        inputs |= merger_inputs(bundle, role, lora)[0]
    return runner.run(inputs)


def merge_with_bundle(bundle: Bundle, runner: Runner, content: LoRA, style: LoRA, options: MergeOptions) -> Merged:
    """Merge two LoRAs whole: the artifact's layers, and the layers that the artifact does not carry.

    `options.rule` must be the bundle's own. Raises InputError for LoRAs that do not fit the base or each other, or when
    the artifact's result is not finite.
    """
    aligned = align(content, style, bundle.layout)
    outputs = run_merger(bundle, runner, content, style, options)
    content_rank = _input_rank(bundle, content)
    both = {pair.name for pair in aligned.pairs}
    layers: dict[str, LoraLayer] = {}
    kinds: dict[str, str] = {}
    coefficients: dict[str, np.ndarray] = {}
    for group in bundle.layout.groups:
        for row, name in enumerate(UNET + module for module in group.modules):
            if name not in both:
                continue
            ranks = (content.layers[name].rank, style.layers[name].rank)
            layers[name] = _layer(outputs, group, row, ranks, content_rank)
            kinds[name] = RULE
            if group.part == "qo":
                kinds[name] = LEARNED
                coefficients[name] = outputs[f"coefficients_{group.name}"][row].astype(np.float32)
    for outcome in merge_rest(aligned, options, skip=frozenset(layers)):
        layers[outcome.name], kinds[outcome.name] = outcome.layer, outcome.kind
    order = dict.fromkeys([*content.layers, *style.layers])
    metadata = _metadata(bundle, runner, content, style, options)
    merged = LoRA({name: layers[name] for name in order}, source="bundle merge", metadata=metadata)
    return Merged(merged, {name: kinds[name] for name in order}, coefficients, None, aligned.warnings)


def _input_rank(bundle: Bundle, lora: LoRA) -> int:
    """Return the rank that a LoRA is padded to."""
    dynamic = isinstance(bundle.component("merger").inputs[0].shape[1], str)
    return lora.max_rank if dynamic else bundle.rank


def _layer(
    outputs: Mapping[str, np.ndarray], group: Group, row: int, ranks: tuple[int, int], content_rank: int
) -> LoraLayer:
    """Cut one merged layer out, without the zero rows that padding left: the content's rows come first, the style's
    from `content_rank` on.
    """
    kept = np.r_[0 : ranks[0], content_rank : content_rank + ranks[1]]
    down = outputs[f"adapter_{group.down}"][row][kept].astype(np.float32)
    up = outputs[f"adapter_{group.up}"][row][:, kept].astype(np.float32)
    if not (np.isfinite(down).all() and np.isfinite(up).all()):
        raise InputError(f"the merge of {group.modules[row]} is not finite in this bundle's precision; use fp32")
    return LoraLayer(down, up)


def _metadata(bundle: Bundle, runner: Runner, content: LoRA, style: LoRA, options: MergeOptions) -> dict[str, str]:
    network = bundle.manifest["hypernetwork"]
    facts = {
        "toolkit_version": __version__,
        "base": str(bundle.manifest["base"]),
        "method": "learned",
        "runtime": f"{runner.runtime} {runner.version}",
        "hypernet_source": network["source"],
        "hypernet_sha256": network["sha256"],
        "content": Path(content.source).name,
        "style": Path(style.source).name,
    }
    facts |= options.describe(frozenset({"rule"}))
    return {f"lorarar_{name}": text for name, text in facts.items()}


def bundle_options(bundle: Bundle, strengths: tuple[float, float] = (1.0, 1.0)) -> MergeOptions:
    """Return the options of a merge through a bundle: the strengths, and the k/v rule that its merger was made with."""
    rule = bundle.manifest["hypernetwork"]["kv_rule"]
    return MergeOptions(content_scale=strengths[0], style_scale=strengths[1], rule=rule)


def merged_lora(bundle: Bundle, loras: Sequence[LoRA], strengths: tuple[float, float] = (1.0, 1.0)) -> LoRA | None:
    """Return what two LoRAs, one or none are together: the merge by the bundle's merger, the one as it is, or None."""
    if len(loras) < 2:
        return loras[0] if loras else None
    runner = open_runner(bundle, "merger")
    return merge_with_bundle(bundle, runner, loras[0], loras[1], bundle_options(bundle, strengths)).lora


@dataclass(frozen=True)
class FileMerge:
    """What a merge of two files did, for a command to tell."""

    merged: Merged
    content: LoRA
    style: LoRA
    runtime: str  # the runtime's name and version
    note: str  # what this run does not show of a device, or ""
    trained: bool  # False: the coefficients mean nothing
    seconds: Mapping[str, float]  # by stage


def merge_files(
    bundle: Bundle,
    content: Path,
    style: Path,
    out: Path,
    *,
    strengths: tuple[float, float] = (1.0, 1.0),
    dialect: str = "peft",
    dtype: str = "fp32",
    plot: Path | None = None,
    on_progress: OnStage = lambda *_: None,
) -> FileMerge:
    """Merge two LoRA files into one through a bundle's merger, as a phone does.

    `strengths` multiply the content's and the style's share. `dialect` and `dtype` are those of `write_lora`. `plot` is
    where a picture of the coefficients goes, as a PNG. `on_progress(stage, done, total)` is called before each stage.
    Raises InputError for a file that can't be read, LoRAs that do not fit the base or each other, a result that is not
    finite, and an output that is no safetensors file or would overwrite an input.
    """
    check_lora_output(out, content, style)
    seconds: dict[str, float] = {}
    total = 4 if plot is None else 5
    on_progress("reading the LoRAs", 0, total)
    with timed(seconds, "read"):
        first, second = read_lora(content), read_lora(style)
    on_progress("loading the merger", 1, total)
    with timed(seconds, "load the merger"):
        runner = open_runner(bundle, "merger")
    on_progress("merging", 2, total)
    with timed(seconds, "merge"):
        merged = merge_with_bundle(bundle, runner, first, second, bundle_options(bundle, strengths))
    on_progress("writing", 3, total)
    with timed(seconds, "write"):
        write_lora(merged.lora, out, dialect=dialect, dtype=dtype)
    if plot is not None:
        on_progress("drawing the coefficients", 4, total)
        with timed(seconds, "plot"):
            plot_coefficients(bundle.layout, merged.coefficients or {}, plot)
    trained = bool(bundle.manifest["hypernetwork"]["trained"])
    return FileMerge(merged, first, second, f"{runner.runtime} {runner.version}", runner.note, trained, seconds)


class GroupMedians(NamedTuple):
    """The median coefficients of one group's learned layers."""

    group: str
    layers: int
    content: float
    style: float


def coefficient_medians(layout: Layout, coefficients: Mapping[str, np.ndarray]) -> list[GroupMedians]:
    """Return the medians of coefficients (layer name → (2, in)) for each group that has any."""
    found = []
    for group in layout.part("qo"):
        pairs = [coefficients[UNET + module] for module in group.modules if UNET + module in coefficients]
        if pairs:
            found.append(GroupMedians(group.name, len(pairs), *np.median(pairs, axis=(0, 2)).tolist()))
    return found
