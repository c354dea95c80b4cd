"""What an export is told: its defaults, its options, and the report that it returns. No toolchain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.targets import find_target
from lorarar.errors import InputError
from lorarar.layout import MAX_LORAS, MAX_STACKED_RANK, StackSize
from lorarar.settings import check_share, is_whole, use_plain_numbers

if TYPE_CHECKING:
    from export.graph import ImageSize
    from lorarar.hypernet.checkpoints import LoadedPredictor
    from lorarar.layout import Layout
    from lorarar.lora import LoRA
    from runtime_py.check import CheckRow

OnProgress = Callable[[str], None]
"""Called with what is being done now, in a few words."""

MAX_STEPS = 1000
MAX_PIXELS = 4096
LEAST_TILE = 4
"""Latent pixels of a decoder's tile, of which one at least is in common with the next."""
UNET_BATCH, PIPELINE_BATCH = 1, 2
"""Batches that are exported by default: a pipeline guides, which takes two."""
STEPS = 25
"""Denoising steps that apps start with by default."""
ADAPTED = "transformer"
"""What an adapter holds by default, a key of lorarar.layout.ADAPT."""
LORAS = 2
"""LoRAs in one stack by default: a content and a style."""


def ignore_progress(_: str) -> None:
    """Report nothing: the default of every `on_progress`."""


def require_stack(rank: int, loras: int = LORAS) -> None:
    """Refuse a LoRA's rank and a number of LoRAs that no export takes, with InputError."""
    if not is_whole(loras, 2, MAX_LORAS):
        raise InputError(f"`loras` is {loras!r}; valid are 2 to {MAX_LORAS}")
    if not is_whole(rank, 1, MAX_STACKED_RANK // loras):
        raise InputError(f"`rank` is {rank!r}; valid are 1 to {MAX_STACKED_RANK // loras} for {loras} LoRAs")


def require_batch(batch: int) -> None:
    """Refuse a UNet's batch that no export takes, with InputError."""
    if not is_whole(batch, 1, 2):
        raise InputError(f"`batch` is {batch!r}; valid are 1, and 2 for guidance in one run")


def require_start(steps: int, guidance: float, guidance_rescale: float) -> None:
    """Refuse what an app can't start with, with InputError."""
    if not is_whole(steps, 1, MAX_STEPS):
        raise InputError(f"`steps` is {steps!r}; valid are 1 to {MAX_STEPS}")
    if not (isinstance(guidance, Real) and math.isfinite(guidance) and guidance >= 1):
        raise InputError(f"`guidance` is {guidance!r}; give 1 (no guidance) or more, 3 to 7 are usual")
    check_share(guidance_rescale=guidance_rescale)


def require_pixels(pixels: int) -> None:
    """Refuse images of more pixels a side than a pipeline's can have."""
    if pixels > MAX_PIXELS:
        raise InputError(f"`resolution` is {pixels}; a pipeline's is {MAX_PIXELS} at most")


def decoded_size(size: ImageSize, tile: int | None) -> ImageSize:
    """Return what a decoder takes at once: a tile of so many pixels, or the whole image.

    Raises InputError for a tile that does not fit the image.
    """
    if tile is None:
        return size
    scale = size.pixels // size.latent
    least = LEAST_TILE * scale
    if not is_whole(tile, least, size.pixels) or tile % scale:
        raise InputError(f"`vae_tile` is {tile!r}; valid are multiples of {scale} from {least} to {size.pixels}")
    return replace(size, pixels=tile, latent=tile // scale)


@dataclass(frozen=True)
class HypernetOptions:
    """What every export is told; the export of a hypernetwork needs no more."""

    target: str
    precision: str  # of a pipeline, the UNet's
    rank: int  # of one LoRA
    loras: int = field(default=LORAS, kw_only=True)
    soc: str | None = field(default=None, kw_only=True)  # what the target compiles for, where it does
    unchecked: bool = field(default=False, kw_only=True)  # written without being run, where that would take hours

    def __post_init__(self) -> None:
        use_plain_numbers(self)
        require_stack(self.rank, self.loras)

    @property
    def stack(self) -> StackSize:
        """What the artifacts have room for."""
        return find_target(self.target).stack(self.rank, self.loras)


@dataclass(frozen=True)
class UNetOptions(HypernetOptions):
    """What to make of a UNet."""

    size: ImageSize
    fused: LoRA | None = None  # added into the weights; there are no adapter inputs then


@dataclass(frozen=True)
class PipelineOptions(HypernetOptions):
    """What to make of a pipeline."""

    size: ImageSize
    steps: int  # what an app starts with
    guidance: float  # what an app starts with; 1 is none
    guidance_rescale: float = 0.0  # the share of what guidance adds to the spread that is taken off
    vae_precision: str | None = None  # where it is not the target's own
    vae_tile: int | None = None  # pixels of the part of an image that the decoder takes at once; all of it where None

    @property
    def decoded(self) -> ImageSize:
        """What the decoder takes at once."""
        return decoded_size(self.size, self.vae_tile)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_start(self.steps, self.guidance, self.guidance_rescale)
        require_pixels(self.size.pixels)
        decoded_size(self.size, self.vae_tile)


@dataclass(frozen=True)
class Source:
    """A base, loaded: a StableDiffusionXLPipeline, its layout, and the hypernetwork to merge with."""

    pipeline: Any
    layout: Layout
    hypernet: LoadedPredictor


@dataclass(frozen=True, repr=False)
class Report:
    """A bundle that was written, and how its check against PyTorch came out."""

    out: Path  # the bundle's folder
    rows: tuple[CheckRow, ...]  # one for each component and runtime
    manifest: Mapping[str, Any]
    notes: tuple[str, ...] = ()  # what reading the hypernetwork's file found

    @property
    def passed(self) -> bool:
        """Whether everything ran and passed. A bundle of which something failed is not written at all."""
        return bool(self.rows) and all(row.status == "passed" for row in self.rows)

    @property
    def bytes(self) -> int:
        """The bytes of all artifacts."""
        return sum(entry["bytes"] for entry in self.manifest["components"].values())

    def __repr__(self) -> str:
        what = " ".join(str(self.manifest[key]) for key in ("base", "target", "precision"))
        passed = sum(row.status == "passed" for row in self.rows)
        size = f"{self.bytes / 1e6:.1f} MB"
        return f"<Report: {what} in {self.out}, {passed} of {len(self.rows)} checks passed, {size}>"
