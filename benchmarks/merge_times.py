"""Time merges of one rank: ZipLoRA's steps, the coefficients in three forms, artifacts, strengths, and whole files.

Needs torch; the artifacts' runtimes are imported when they are asked for.
"""

from __future__ import annotations

import math
import multiprocessing
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.merge_work import MergeWork, case_record, footprint, goals, random_loras
from benchmarks.processes import peak_bytes, run_module
from benchmarks.timing import FLOAT_BYTES, Case, OnCase, RunSettings, interleave, measure_cases
from lorarar.base.components import Condition
from lorarar.base.names import TIME_IDS, load_layout, meta_unet, pooled_width, unet_config, unet_layout
from lorarar.base.untrained import MAX_TOKENS
from lorarar.hypernet.graph import CoefficientGraph
from lorarar.hypernet.network import HypernetConfig, Hypernetwork
from lorarar.layout import ROLES, Layout, coefficient_shapes, fixed
from lorarar.lora import LoRA, open_lora, write_lora
from lorarar.merging import MergeOptions, merge_loras, predict_with
from lorarar.merging.ziplora import optimise_pair
from lorarar.pool import process_pool
from lorarar.stack import stack
from lorarar.synthetic import synthetic_lora
from lorarar.toolchains import quiet_toolchains
from lorarar.training.bank import LoraBank
from lorarar.training.examples import Examples
from lorarar.training.hyper_settings import ZipSettings
from lorarar.training.pair_data import PairData, RoleData
from runtime_py.backends.onnx import OnnxRunner
from runtime_py.blend import Blender
from runtime_py.bundle import Bundle

_DENSE_AT_ONCE = 6  # layers: 240 ΔW of SDXL and their copies would take 6 GB
_DTYPE = "fp16"  # what LoRA files hold
# Of ZipLoRA's steps, whose weights, latents and prompts are random numbers: a step takes as long with any others.
LATENT_SIDE = 64  # at most: 512×512 pixels on SDXL, where the paper has 1024×1024
# Above it, activations of two rows don't fit beside the weights in 24 GB, and are computed a second time instead.
CHECKPOINTED_PARAMETERS = 1.5e9


def measure_rank(
    layout: Layout, base: str, rank: int, targets: Sequence[str], steps: int, settings: RunSettings, progress: OnCase
) -> dict[str, Any]:
    """Return everything about one rank, as JSON; so many `steps` of ZipLoRA are measured."""

    def say(text: str, done: int = 0, total: int | None = None) -> None:
        progress(f"rank {rank}: {text}", done, total)

    widths = tuple(sorted({group.out_features for group in layout.part("qo")}))
    hypernet = Hypernetwork.untrained(HypernetConfig(widths=widths)).requires_grad_(False)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say("ZipLoRA")
        # First, since it needs the memory.
        zipped = _ziplora(base, rank, steps, settings.threads) if steps else None
        pair = random_loras(layout, rank)
        inputs = {name: torch.from_numpy(value) for name, value in stack(pair, layout).inputs.items()}
        cases = pytorch_cases(hypernet, layout, inputs)
        whole = load_layout(base, "transformer")
        cases |= session_cases(whole, random_loras(whole, rank))
        for target in targets:
            say(f"exporting to {target}")
            cases[target] = _artifact_case(target, base, rank, folder, inputs, settings.threads)
        machine, samples = measure_cases(cases, settings.runs, say)
        # Their gigabytes would be in the way of the file cache.
        del cases, inputs, pair
        say("files")
        files = _measure_files(layout, hypernet, rank, folder, settings.runs)
    work = MergeWork.of(layout, rank, hypernet.config.hidden)
    parameters = sum(p.numel() for p in hypernet.parameters())
    return {
        "rank": rank,
        **machine.record(samples["sgemm"]),
        "cases": [case_record(name, case, work, machine) for name, case in samples.items()],
        "files": files,
        "footprint": footprint(samples, zipped, parameters) if zipped else None,
        "written_bytes": written_bytes(whole),
        "goals": goals(base, samples, work, machine, written_bytes(whole)),
    }


def _ziplora(base: str, rank: int, steps: int, threads: int) -> dict[str, Any]:
    """Measure in a new process, whose peak memory is its own."""
    advice = "close other programs, or leave ZipLoRA's steps out with a `ziplora_steps` of 0"
    with process_pool(1, multiprocessing.get_context("spawn"), advice=advice) as pool:
        return pool.submit(measure_steps, base, rank, steps, threads).result()


def written_bytes(layout: Layout) -> int:
    """Return the bytes that a merge writes, and all that it adds: the coefficients of a stack of two LoRAs."""
    shapes = coefficient_shapes(layout.groups, 2).values()
    return sum(math.prod(fixed(shape, {})) for shape in shapes) * FLOAT_BYTES


def pytorch_cases(hypernet: Hypernetwork, layout: Layout, inputs: Mapping[str, Tensor]) -> dict[str, Case]:
    """Return the cases of PyTorch: the coefficients in three forms, and the graph that is exported."""
    content, style = (inputs[ROLES][:, number].bool() for number in (0, 1))

    def factors(down: Tensor, up: Tensor) -> list[Tensor]:
        pairs = [(down[:, rows].contiguous(), up[:, :, rows].contiguous()) for rows in (content, style)]
        return [tensor for pair in pairs for tensor in pair]

    learned = [factors(inputs[group.down], inputs[group.up]) for group in layout.part("qo")]

    def dense() -> list[Tensor]:
        return [
            hypernet.dense(c_up @ c_down, s_up @ s_down)
            for group in learned
            for c_down, c_up, s_down, s_up in zip(*(tensor.split(_DENSE_AT_ONCE) for tensor in group), strict=True)
        ]

    prepared = [
        (hypernet.prepare(c_down, c_up, "content"), hypernet.prepare(s_down, s_up, "style"))
        for c_down, c_up, s_down, s_up in learned
    ]
    graph = CoefficientGraph(hypernet, layout)
    return {
        "dense": dense,
        "factored": lambda: [hypernet(*group) for group in learned],
        "prepared": lambda: [hypernet.combine(*pair) for pair in prepared],
        "graph": lambda: graph(**inputs),
    }


def session_cases(layout: Layout, pair: Sequence[LoRA]) -> dict[str, Case]:
    """Return what a running session does: stacking a new pair, and writing a new strength."""
    blender = Blender(stack(pair, layout), 0.5)
    turn = count()
    return {
        "stack two LoRAs": lambda: stack(pair, layout),
        "new strength": lambda: blender.write((1.0, next(turn) % 7 / 7)),
    }


def _artifact_case(target: str, base: str, rank: int, folder: Path, inputs: Mapping[str, Tensor], threads: int) -> Case:
    """Export an artifact, and return one run of it on inputs that are already in memory."""
    out = folder / f"{target}-{rank}"
    given = ("--target", target, "--base", base, "--untrained", "--rank", str(rank), "--out", str(out))
    run_module("export.hypernet", *given)  # as users export it, checked against PyTorch
    component = Bundle.open(out).component("hypernet")
    inputs = {spec.name: inputs[spec.name] for spec in component.inputs}
    if target == "onnx":
        runner = OnnxRunner(component, threads)
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        return lambda: runner.run(arrays)
    from runtime_py.backends.executorch import start_threads  # here, since it needs a toolchain

    # Not `runtime_py`'s runner: it copies every output, which an app that reads them in place does not need.
    program = start_threads(threads)._load_for_executorch(str(component.path))
    ordered = [inputs[spec.name] for spec in component.inputs]
    return lambda: program.run_method("forward", ordered, clone_outputs=False)


def _measure_files(layout: Layout, hypernet: Hypernetwork, rank: int, folder: Path, rounds: int) -> dict[str, float]:
    """Time merges of two LoRA files into one, and copies of as many bytes; the files come from the page cache."""
    sources = [folder / "content.safetensors", folder / "style.safetensors"]
    merged, copied = folder / "merged.safetensors", folder / "copied.bin"
    for seed, path in enumerate(sources):
        write_lora(synthetic_lora(layout, rank, seed), path, dtype=_DTYPE)
    options = MergeOptions(predict=predict_with(hypernet))

    def merge_files() -> None:
        content, style = map(open_lora, sources)  # as the command does
        write_lora(merge_loras(content, style, layout, "learned", options).lora, merged, dtype=_DTYPE)

    def copy_files() -> None:
        with copied.open("wb") as target:
            for path in sources:  # together as large as the merged file, but for its metadata
                target.write(path.read_bytes())

    merge_files()
    samples = interleave({"merge": merge_files, "copy": copy_files}, rounds)
    merge_s, copy_s = samples["merge"].median, samples["copy"].median
    size = sum(path.stat().st_size for path in (*sources, merged))  # that each reads and writes
    return {"merge_s": merge_s, "copy_s": copy_s, "ratio": merge_s / copy_s, "bytes": size}


@dataclass
class RandomBase:
    """A base's UNet with random weights and a noise schedule: an optimisation runs nothing else of a base."""

    unet: Any
    noise: Any  # a diffusers DDPMScheduler
    latent_side: int

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device


def measure_steps(base: str, rank: int, steps: int, threads: int) -> dict[str, Any]:
    """Return the seconds of each of `steps` steps in fp32 after a first one, and what the whole optimisation is."""
    torch.set_num_threads(threads)
    made = random_base(base)
    layout: Layout = unet_layout(made.unet, base)
    many = sum(parameter.numel() for parameter in made.unet.parameters()) > CHECKPOINTED_PARAMETERS
    settings = ZipSettings(steps=steps + 1, gradient_checkpointing=many)
    ends: list[float] = []
    pair = random_pair(made, layout, rank)
    optimise_pair(made, layout, pair, settings, lambda step, loss: ends.append(time.perf_counter()))
    return {
        "step_seconds": [end - start for start, end in pairwise(ends)],
        "steps": ZipSettings().steps,  # of a whole optimisation
        "parameters": sum(2 * len(group.modules) * group.in_features for group in layout.groups),
        "latent_side": made.latent_side,
        "gradient_checkpointing": many,
        "peak_bytes": peak_bytes(),
    }


def random_base(base: str) -> RandomBase:
    """Make a base's UNet with random weights. Raises InputError for a base that has no such UNet."""
    with quiet_toolchains():
        from diffusers import DDPMScheduler, UNet2DConditionModel
    meta_unet(base)  # says what a config is missing
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(unet_config(base)).requires_grad_(False).eval()
    return RandomBase(unet, DDPMScheduler(), min(LATENT_SIDE, unet.config.sample_size or LATENT_SIDE))


def random_pair(base: RandomBase, layout: Layout, rank: int) -> PairData:
    """Make two LoRAs of that rank, with an image and a prompt of each."""
    config, side = base.unet.config, base.latent_side
    pooled = 0
    if config.addition_embed_type == "text_time":
        pooled = pooled_width(config)

    def role(seed: int, lora: LoRA) -> RoleData:
        numbers = torch.Generator().manual_seed(seed)
        latents = torch.randn((1, config.in_channels, side, side), generator=numbers)
        embeds = torch.randn((1, MAX_TOKENS, config.cross_attention_dim), generator=numbers)
        pooled_embeds = torch.randn((1, pooled), generator=numbers)
        condition = Condition(embeds, pooled_embeds, torch.zeros(1, TIME_IDS))
        bank = LoraBank.of([lora], layout, rank)
        return RoleData(bank, Examples((latents,), condition, stream=seed))

    content, style = random_loras(layout, rank)
    return PairData(role(0, content), role(1, style), ((0, 0),))
