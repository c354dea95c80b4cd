"""What the merging methods share: pairs of layers, options, merged layers, and threads for those that need torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from numbers import Real

import numpy as np
from jaxtyping import Float

from lorarar.errors import InputError
from lorarar.layout import PAPER_LEARNED, Group, check_kinds
from lorarar.lora import LoRA, LoraLayer
from lorarar.lora.codes import peak
from lorarar.lora.layers import Blocks, when_loaded
from lorarar.settings import check_at_least, check_choice, check_seed, setting

RULES = {"average": 0.5, "sum": 1.0}
"""The coefficient that both LoRAs of a layer get: the paper averages to_k and to_v, the authors' code adds them up."""

LEARNED, METHOD, RULE = "learned", "method", "rule"
CONTENT_ONLY, STYLE_ONLY, OTHERS_ONLY = "content only", "style only", "others only"


def too_large(layer: str) -> InputError:
    """Make the error for a merged layer that overflows."""
    return InputError(f"the merge of {layer} is too large for float32; use smaller strengths")


def refuse_overflow(layer: LoraLayer, name: str) -> LoraLayer:
    """Refuse a merged layer that is not finite: now where it is in memory, else as soon as what is returned is read."""

    def blocks() -> Blocks:
        # An overflow is told as an InputError, and not by numpy's warnings too.
        with np.errstate(over="ignore", invalid="ignore"):
            found = layer.blocks()
        if not all(math.isfinite(peak(factor)) for block in found for factor in block):
            raise too_large(name)
        return found

    return when_loaded([layer], layer.shapes, blocks)


def finite(given: object) -> np.ndarray | None:
    """Return numbers in float32; None where they are no numbers, ragged, or not finite."""
    try:
        with np.errstate(over="ignore"):
            found = np.asarray(given, np.float32)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last of torch, for what asks for a gradient
        return None
    return found if np.isfinite(found).all() else None


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and finite(value) is not None


def check_strengths(strengths: Sequence[float], loras: int, said: str = "`strengths` are") -> tuple[float, ...]:
    """Return strengths, one for each LoRA; InputError for anything else, and for one that float32 does not hold.

    `said` begins the error.
    """
    found = finite(strengths)
    if found is None or found.shape != (loras,):
        raise InputError(f"{said} {strengths}; give {loras} finite numbers, one for each LoRA")
    return tuple(float(strength) for strength in strengths)


Predict = Callable[[Sequence[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Predicts the coefficients (n, 2, in) of n layers of one shape from their names in the UNet, the content's down
(n, content_rank, in) and up (n, out, content_rank), then the style's.
"""


@dataclass(frozen=True)
class MergeOptions:
    """The numbers that the methods take; a method's entry in METHODS says which ones it uses.

    Raises InputError when a number is out of its range.
    """

    content_scale: float = setting(1.0, "multiplies ΔW_c; 1 is the paper's", metavar="X")
    style_scale: float = setting(1.0, "multiplies ΔW_s; 1 is the paper's", metavar="X")
    rule: str = setting(
        "average",
        "direct, norm-balance: how to merge; learned, ssr, ssr-text, block-router: the layers they leave (learned: as "
        "trained)",
        choices=RULES,
    )
    density: float = setting(0.5, "dare, ties, dare-ties, knots-ties: share of entries that are kept", metavar="P")
    seed: int = setting(0, "dare, dare-ties: seed of the masks; ziplora: of the noise and timesteps", metavar="N")
    mu: float = setting(0.5, "np-lora: how far the content gives way, 0 or more", metavar="MU")
    rank_out: int | None = setting(None, "ranks kept of each layer that both have, at most", metavar="R", parse=int)
    learned: tuple[str, ...] = PAPER_LEARNED  # kinds of layers that `learned` predicts; the others follow the rule
    predict: Predict | None = field(default=None, repr=False, compare=False)  # the hypernetwork of `learned`
    constants: Mapping[str, tuple[float, float]] | None = None  # (m_c, m_s) by kind, in place of a hypernetwork
    # by layer each LoRA's mean z·zᵀ under its own prompt, which `lorarar.merging.ssr_grams` measures
    grams: Mapping[str, np.ndarray] | None = field(default=None, repr=False, compare=False)
    # (m_c, m_s) by layer, which `lorarar.merging.ziplora` optimises
    coefficients: Mapping[str, np.ndarray] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "learned", check_kinds(self.learned))
        if self.constants is not None and set(self.constants) != set(self.learned):
            raise InputError(
                f"`constants` are for {','.join(self.constants)}, but `learned` is {','.join(self.learned)}"
            )
        check_choice(RULES, rule=self.rule)
        for name in ("content_scale", "style_scale"):
            if not _is_number(getattr(self, name)):
                raise InputError(f"`{name}` is {getattr(self, name)}; give a finite number, 1 is the paper's")
        if not (_is_number(self.density) and 0 < self.density <= 1):
            raise InputError(f"`density` is {self.density}; give a share above 0 and up to 1, the paper's is 0.5")
        if not (_is_number(self.mu) and self.mu >= 0):
            raise InputError(f"`mu` is {self.mu}; give a finite number from 0 upwards, NP-LoRA's default is 0.5")
        check_seed(self.seed)
        if self.rank_out is not None:
            check_at_least(1, rank_out=self.rank_out)

    @property
    def scales(self) -> tuple[float, float]:
        """The factors of ΔW_c and ΔW_s."""
        return self.content_scale, self.style_scale

    def describe(self, used: frozenset[str]) -> dict[str, str]:
        """Return the scales and the options in `used`, as text for a file's metadata."""
        always = {"content_scale", "style_scale"}
        given = {item.name: getattr(self, item.name) for item in fields(self) if item.name in used | always}
        return {
            name: ",".join(value) if isinstance(value, tuple) else str(value)
            for name, value in given.items()
            if value is not None
        }


@dataclass(frozen=True)
class LayerPair:
    """A layer that both LoRAs have. `group` is its place in the base's layout, None outside the attention linears."""

    name: str
    content: LoraLayer
    style: LoraLayer
    group: Group | None = None


@dataclass(frozen=True)
class Truncated:
    """The error of one layer's cut: ‖ΔW − ΔW_r‖² and ‖ΔW‖² (Frobenius, float64)."""

    squared_error: float
    squared_norm: float

    @property
    def relative(self) -> float:
        """The relative error ‖ΔW − ΔW_r‖ / ‖ΔW‖."""
        return math.sqrt(self.squared_error / self.squared_norm) if self.squared_norm else 0.0


@dataclass(frozen=True)
class MergedLayer:
    """One merged layer and how it came about. `truncated` is set when ΔW_m had to be cut to a rank."""

    name: str
    layer: LoraLayer
    kind: str = METHOD
    coefficients: Float[np.ndarray, "2 inp"] | None = None
    truncated: Truncated | None = None


@dataclass(frozen=True)
class Truncation:
    """The error of all cut layers against the method's own ΔW_m, measured on the factors that are kept (float32)."""

    layers: int
    overall: float  # ‖ΔW − ΔW_r‖ / ‖ΔW‖ over all truncated layers together
    worst: float
    worst_layer: str

    @classmethod
    def of(cls, outcomes: Mapping[str, Truncated]) -> Truncation | None:
        """Sum up all cut layers; None when there is none."""
        if not outcomes:
            return None
        worst = max(outcomes, key=lambda name: outcomes[name].relative)
        error = sum(item.squared_error for item in outcomes.values())
        norm = sum(item.squared_norm for item in outcomes.values())
        return cls(len(outcomes), Truncated(error, norm).relative, outcomes[worst].relative, worst)


Run = Callable[[Sequence[LayerPair], MergeOptions], Iterator[MergedLayer]]


@dataclass(frozen=True)
class Method:
    """One way to merge, an entry of METHODS."""

    run: Run
    summary: str  # one line for the help
    arxiv: str  # the number of the paper
    uses: frozenset[str]  # the MergeOptions that matter to it, besides the scales and rank_out
    needs_torch: bool = True

    @property
    def paper(self) -> str:
        """The link of the paper."""
        return f"https://arxiv.org/abs/{self.arxiv}"

    def __repr__(self) -> str:
        return f"Method(arXiv {self.arxiv})"


@dataclass(frozen=True)
class Merged:
    """A merged LoRA and how each of its layers came about."""

    lora: LoRA
    kinds: Mapping[str, str] = field(repr=False)  # layer → LEARNED or another of these words
    # of `learned` and `ziplora`: layer → (2, in), scales included
    coefficients: Mapping[str, np.ndarray] | None = field(repr=False)
    truncation: Truncation | None  # None: the merge is exact
    warnings: tuple[str, ...] = ()

    def count(self, kind: str) -> int:
        """Return how many layers came about in this way."""
        return sum(found == kind for found in self.kinds.values())

    def with_facts(self, facts: Mapping[str, object]) -> Merged:
        """Return the same with more facts in the LoRA's metadata, under `lorarar_` and their names."""
        metadata = {**self.lora.metadata, **{f"lorarar_{name}": str(value) for name, value in facts.items()}}
        return replace(self, lora=replace(self.lora, metadata=metadata))


def per_core(work: Callable[[LayerPair], MergedLayer], pairs: Sequence[LayerPair]) -> Iterator[MergedLayer]:
    """Yield `work` of every pair, in order, with a thread for each core and one layer on each thread. Imports torch.

    Measured: a decomposition that is spread over the cores takes longer than on one of them, and many times as long on
    a busy machine, since its threads wait for each other at every step. numpy does not warn of overflows, which are
    told as an InputError, by `work` or by who takes what it yields.
    """
    import torch

    def quiet(pair: LayerPair) -> MergedLayer:
        with np.errstate(over="ignore", invalid="ignore"):  # each thread has a state of its own
            return work(pair)

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(quiet, pairs)
    finally:
        torch.set_num_threads(threads)
