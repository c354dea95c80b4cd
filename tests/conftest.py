"""A base small enough to export in seconds, its LoRAs, and its bundle for every target and precision."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from hypothesis import settings
from made_once import MadeOnce

from lorarar.layout import UNET, Layout
from lorarar.lora import LoRA, LoraLayer
from lorarar.merging import RULES

if TYPE_CHECKING:
    from hyper_world import World

    from lorarar.base.components import Components
    from lorarar.hypernet.checkpoints import LoadedHypernet
    from lorarar.hypernet.network import Hypernetwork

# A shell's background job, and all that it starts, ignores Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine takes what time it takes; how fast something is is no property of an example.
settings.register_profile("lorarar", deadline=None)
settings.load_profile("lorarar")


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    """Undo what a command sets in torch for its process: flushing of denormals, the number of threads of --threads.

    Two workers of two threads each would slow every later test down on two cores. Measured: 3 s of training took 28 s,
    since threads spin while they wait for a core. Tests that don't load torch don't load it through this either.
    """
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.set_num_threads(threads or int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def made_once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Give what makes a folder that all workers, and later runs of the same sources, share. Copy it to change it."""
    cache = getattr(request.config, "cache", None)
    return MadeOnce(cache.mkdir("lorarar") if cache else tmp_path_factory.getbasetemp().parent / "lorarar")


BUNDLE_RANK = 128  # of the fixed-rank bundles: the largest that the property tests use
COMBINATIONS = [
    ("onnx", "fp32"),
    ("onnx", "fp16"),
    ("coreml", "fp32"),
    ("coreml", "fp16"),
    ("executorch", "fp32"),
]


def tiny_layout() -> Layout:
    """SDXL's six groups in small: two learned widths, self-attention and cross-attention keys."""
    linears = []
    for block, width in (("down_blocks.1", 32), ("down_blocks.2", 64), ("up_blocks.0", 64)):
        for attention, inp in (("attn1", width), ("attn2", 48)):
            prefix = f"{block}.attentions.0.transformer_blocks.0.{attention}"
            linears += [(f"{prefix}.to_q", width, width), (f"{prefix}.to_k", inp, width)]
            linears += [(f"{prefix}.to_v", inp, width), (f"{prefix}.to_out.0", width, width)]
    return Layout.from_linears("tiny", linears)


def random_lora(
    layout: Layout, ranks: tuple[int, ...], seed: int, up_scale: float = 1.0, down_scale: float = 1.0
) -> LoRA:
    """Every layer of the layout, with the given ranks in turn. Scale 0 gives layers of zeros."""
    generator = np.random.default_rng(seed)
    layers = {}
    for group in layout.groups:
        for row, module in enumerate(group.modules):
            rank = ranks[row % len(ranks)]
            down = generator.standard_normal((rank, group.in_features)).astype(np.float32) * np.float32(down_scale)
            up = generator.standard_normal((group.out_features, rank)).astype(np.float32) * np.float32(up_scale)
            layers[UNET + module] = LoraLayer(down, up)
    return LoRA(layers, source=f"random {seed}")


def tiny_hypernet() -> LoadedHypernet:
    """A hypernetwork for the tiny layout's widths, always the same."""
    from lorarar.hypernet.checkpoints import untrained_hypernet
    from lorarar.hypernet.network import HypernetConfig

    return untrained_hypernet(HypernetConfig(widths=(32, 64), hidden=16), seed=3)


class Dense(NamedTuple):
    """A layer's ΔW_m in float64, and the value that a share of error is a share of."""

    delta: np.ndarray
    largest: float


def dense_reference(layout: Layout, content: LoRA, style: LoRA, scales: tuple[float, float]) -> dict[str, Dense]:
    """ΔW_m by Eq. 2 on dense matrices in float64, with the paper's dense hypernetwork."""
    hypernet = tiny_hypernet().hypernet.double()
    merged = {}
    for group in layout.groups:
        for module in group.modules:
            pair = [dense_delta(lora.layers[UNET + module]) for lora in (content, style)]
            if group.part == "qo":
                applied, terms = dense_coefficients(hypernet, *pair)
            else:
                applied = terms = np.full((2, 1), RULES["average"])
            merged[UNET + module] = dense_sum(pair, applied, terms, scales)
    return merged


def dense_delta(layer: LoraLayer) -> np.ndarray:
    """ΔW of a linear in float64."""
    return layer.up.astype(np.float64) @ layer.down.astype(np.float64)


def dense_coefficients(hypernet: Hypernetwork, content: np.ndarray, style: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients (2, in) of two dense ΔW, and the sum of the magnitudes of what the last layer adds up to each.

    `hypernet` is in float64.
    """
    import torch

    with torch.inference_mode():
        hidden = hypernet.input_layer(len(content))(torch.from_numpy(np.concatenate([content, style]).T)).relu()
        weight, bias = hypernet.output.weight, hypernet.output.bias
        return (hidden @ weight.T + bias).T.numpy(), (hidden @ weight.abs().T + bias.abs()).T.numpy()


def dense_sum(pair: list[np.ndarray], applied: np.ndarray, terms: np.ndarray, scales: tuple[float, float]) -> Dense:
    """s_c·m_c·ΔW_c + s_s·m_s·ΔW_s, where `terms` are the magnitudes that the coefficients were summed from."""
    delta = sum(scale * m * part for scale, m, part in zip(scales, applied, pair, strict=True))
    parts = sum(abs(scale) * m * abs(part) for scale, m, part in zip(scales, terms, pair, strict=True))
    return Dense(np.asarray(delta), largest(np.asarray(delta), np.asarray(parts)))


def largest(sums: np.ndarray, terms: np.ndarray) -> float:
    """The value that a share of error is a share of: the largest of `sums`, whose terms' magnitudes add up to `terms`.

    Every term is rounded before it is added, in any order of sums and in PyTorch too. Where they cancel to less than
    an eighth of themselves, a share of what is left is more than fp32 or fp16 can promise, and it is of that eighth.
    """
    return max(float(np.abs(sums).max()), float(terms.max()) / 8)


@pytest.fixture(scope="session")
def layout() -> Layout:
    return tiny_layout()


@pytest.fixture(scope="session")
def tiny_pipeline(made_once: MadeOnce) -> Path:
    """Give an untrained SDXL pipeline for images of 32×32, in diffusers format."""
    from tiny_pipeline import save_tiny_pipeline

    # The folder's name is the base's, which LoRAs and records carry.
    return made_once("tiny/pipeline", save_tiny_pipeline)


@pytest.fixture(scope="session")
def shallow_pipeline(made_once: MadeOnce) -> Path:
    """Give the tiny pipeline with a shallower UNet, for exports."""
    from tiny_pipeline import save_tiny_pipeline, shallow_sizes

    return made_once("shallow/pipeline", lambda folder: save_tiny_pipeline(folder, sizes=shallow_sizes()))


@pytest.fixture(scope="module")
def world(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The tiny pipeline with a dataset and LoRAs, for training on pairs."""
    from hyper_world import make_world

    return make_world(tiny_pipeline, tmp_path_factory.mktemp("world") / "dataset")


@pytest.fixture(scope="session")
def tiny_dataset(made_once: MadeOnce) -> Path:
    """Give a dataset of four contents and four styles without LoRA files. Shared: copy it before writing into it."""
    from tiny_pipeline import save_tiny_dataset

    return made_once("tiny/dataset", save_tiny_dataset)


@pytest.fixture(scope="module")
def components(tiny_pipeline: Path) -> Components:
    """The tiny pipeline's networks, as training uses them."""
    from lorarar.base.components import load_components

    return load_components(str(tiny_pipeline))


@pytest.fixture(scope="module")
def images(tiny_dataset: Path) -> tuple[Path, ...]:
    """The reference images of the tiny dataset's first content."""
    from lorarar.training.dataset import read_dataset

    return read_dataset(tiny_dataset).contents["content_0"].images


@pytest.fixture(scope="module")
def trained(components: Components, images: tuple[Path, ...]) -> LoRA:
    """A LoRA of those images, after `lora_training.SETTINGS`."""
    from lora_training import SETTINGS

    from lorarar.training.dreambooth import train_lora

    return train_lora(components, images, "a sks dog", SETTINGS)


@pytest.fixture(scope="session")
def bundle_folders(made_once: MadeOnce, layout: Layout) -> dict[tuple[str, str], Path]:
    """Give one exported bundle of the tiny hypernetwork for each (target, precision)."""
    from export import HypernetOptions, write_hypernet

    def export(target: str, precision: str) -> Path:
        options = HypernetOptions(target, precision, BUNDLE_RANK)
        return made_once(
            f"hypernet/{target}-{precision}", lambda out: write_hypernet(tiny_hypernet(), layout, options, out)
        )

    return {combination: export(*combination) for combination in COMBINATIONS}
