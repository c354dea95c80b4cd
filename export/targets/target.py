"""The description of a target: everything that the toolkit has to know about it, in one place. No toolchain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from export.tolerance import TEXT_ENCODERS, TEXT_PRECISIONS, Tolerances
from lorarar.errors import InputError
from lorarar.layout import StackSize
from lorarar.toolchains import named_if_missing
from runtime_py.parity import Tolerance

if TYPE_CHECKING:
    from export.graph import Graph

Convert = Callable[["Graph", str, Path], None]
"""Writes a graph in a precision to a path (a file or a folder, as the format has it). It may use the graph's module up,
which is the converter's own."""


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of a weight by the kind of its layer; a scale's bytes are shared by the weights that it belongs to."""

    linear: float
    conv: float
    other: float  # biases, norms and embeddings


FLOATS = {"fp32": WeightBytes(4.0, 4.0, 4.0), "fp16": WeightBytes(2.0, 2.0, 2.0)}
"""Bytes of a weight in the precisions that every target stores alike."""


@dataclass(frozen=True)
class Soc:
    """A system on a chip that artifacts are compiled for."""

    name: str  # its maker's number, which Android tells as Build.SOC_MODEL
    market_name: str
    htp_arch: int  # the version of its NPU's instructions
    model: int  # QNN's number of it


@dataclass(frozen=True)
class ExportCost:
    """What exporting and checking a UNet took on 2 cores of a server (docs/full-size.md; a test compares)."""

    seconds_per_million: float  # weights
    peak_bytes_per_weight: float


@dataclass(frozen=True)
class Target:
    """One artifact format with the runtime that runs it on phones."""

    name: str
    suffix: str  # of an artifact's file or folder
    runs_on: str  # the least systems, in words
    proved_by: str  # what runs its artifacts here, for docs/targets.md
    never_run: str  # what phones run them with, which nobody has seen do it
    apps: tuple[str, ...]  # the demo apps that run it, by the names of their folders
    default_for: tuple[str, ...]  # those of them that a bundle of it is made for where no target is named
    converter: str  # the module whose `convert` is a Convert; imported when something is converted
    packages: tuple[str, ...]  # what the converter imports from others
    tolerances: Tolerances  # what is offered: component → precision → tolerance
    default_precision: str
    free_rank: bool  # whether a stack's rank may differ from run to run; if not, shorter stacks are padded with zeros
    hypernet_form: str  # a key of lorarar.hypernet.graph.FORMS, the fastest in this runtime
    bytes_per_weight: Mapping[str, WeightBytes]  # by precision
    adapter_form: str = "matmul"  # a key of export.components.adapted.FORMS
    prepare: Callable[[], Any] | None = None  # imports one of `packages`, where a plain import would bring too much
    not_offered: Mapping[str, str] = field(default_factory=dict)  # precisions that the UNet lacks → why
    half_io: tuple[str, ...] = ("fp16",)  # precisions whose inputs and outputs are fp16; fp32 otherwise
    rank_multiple: int = 1  # what a stack's rows are a multiple of, where their number is fixed
    replaced: tuple[str, ...] = ()  # keys of export.rewrites.REPLACED, in order: modules that others take the place of
    chunk_bytes: int | None = None  # weights that one model may have; more are cut into chunks in one artifact
    neural_engine: bool = False  # whether Apple's systems run it, where an app chooses processors for a component
    costs: Mapping[str, ExportCost] = field(default_factory=dict)  # measured, by precision
    socs: tuple[Soc, ...] = ()  # what artifacts are compiled for, where each is for one
    soc: Soc | None = None  # the one that was chosen of them

    def compiled_for(self, soc: str | None) -> Target:
        """Return the target with a chip chosen. Raises InputError for one that it does not know, lacks or needs."""
        if soc is None and not self.socs:
            return self
        known = {each.name: each for each in self.socs}
        if not known:
            raise InputError(f"`soc` is {soc!r}, but {self.name} is compiled for no chip; leave it out")
        if soc not in known:
            names = ", ".join(f"{each.name} ({each.market_name})" for each in self.socs)
            said = "is needed" if soc is None else f"is {soc!r}"
            raise InputError(f"`soc` {said}: {self.name} is compiled for one chip; valid are {names}")
        return replace(self, soc=known[soc])

    def stack(self, rank: int, loras: int) -> StackSize:
        """Return the room for LoRAs of a rank: rows that no LoRA needs are padding."""
        rows = loras * rank
        return StackSize(loras, rows + -rows % self.rank_multiple)

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions of the UNet, by which a pipeline goes."""
        return tuple(self.tolerances["unet"])

    def compute_units(self, component: str, precision: str) -> str | None:
        """Return the processors that an app should run a component on; None where it has no such choice."""
        if not self.neural_engine:
            return None
        # The Neural Engine has no float32, which the hypernetwork computes in whatever its inputs are.
        return "cpu-and-gpu" if precision == "fp32" or component == "hypernet" else "cpu-and-neural-engine"

    def require(self, component: str, precision: str) -> Tolerance:
        """Return the tolerance of a component in a precision; InputError tells the precisions that are offered."""
        offered = self.tolerances[component]
        if precision not in offered:
            reason = self.not_offered.get(precision) if component == "unet" else None
            parameter = "vae_precision" if component == "vae_decoder" else "precision"
            raise InputError(
                f"`{parameter}` is {precision!r}; {self.name} offers the {component} in {', '.join(offered)}, "
                f"not in {precision}{f': {reason}' if reason else ''}"
            )
        return offered[precision]

    def io_dtype(self, precision: str) -> str:
        """Return the type of an artifact's inputs and outputs, but for those that no precision changes."""
        return "float16" if precision in self.half_io else "float32"

    def precision_of(self, component: str, unet: str, vae: str | None = None) -> str:
        """Return a component's precision in a pipeline whose UNet has the precision `unet`.

        The hypernetwork takes the very factors that the UNet takes. Text encoders are a third of SDXL's weights, so
        they follow the UNet, but not below 8 bits: what they lose, every image loses. SDXL's VAE overflows in fp16, so
        a decoder is in fp32 where the target can, unless `vae` says otherwise.
        """
        if component == "unet":
            return unet
        if component == "hypernet":
            return "fp16" if unet in self.half_io else "fp32"
        if component in TEXT_ENCODERS:
            return unet if unet in TEXT_PRECISIONS else TEXT_PRECISIONS[-1]
        return vae or next(iter(self.tolerances["vae_decoder"]))

    def load_converter(self) -> Convert:
        """Import the toolchain and return `convert`; InputError names the extra to install when it is missing."""
        with named_if_missing(self.packages, extra=self.name):
            if self.prepare:
                self.prepare()
            convert = import_module(self.converter).convert
        return cast(Convert, convert if self.soc is None else partial(convert, soc=self.soc))
