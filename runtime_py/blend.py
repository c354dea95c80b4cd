"""Blends: the coefficients of a merge, written in place. A new strength is a multiplication, and no graph is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from lorarar.errors import InputError
from lorarar.layout import UNET
from lorarar.lora import LoraLayer
from lorarar.lora.layers import join_columns
from lorarar.merging import CONTENT_ONLY, LEARNED, OTHERS_ONLY, RULE, STYLE_ONLY
from lorarar.merging.types import check_strengths, finite, refuse_overflow
from lorarar.stack import Stack
from runtime_py.guidance import Apart, Blend, Coefficients

BlockWeights = Mapping[str, float | Sequence[float]]
"""The start of names in the UNet, such as `up_blocks.0`, or a text encoder → what multiplies the strength there, of
all LoRAs or of each."""

ByStep = Callable[[int, int], Sequence[float]]
"""The strengths of an image's steps, one for each LoRA, as a function of (step from 0, steps)."""
Strengths = Sequence[float] | ByStep
"""The strengths of an image: the same at all steps, or of each step."""


class Blender:
    """The coefficients of a stack: `unit` ones, for strengths of 1, and `values`, which strengths are written into.

    A layer that both the content and the style have gets its pair (2, in) of `known`, by full name, or `rule` where
    there is none; a layer of one of them, and the LoRAs beside these two, get 1.
    """

    def __init__(self, stack: Stack, rule: float, known: Mapping[str, np.ndarray] | None = None) -> None:
        self.stack, self.rule, self.unit = stack, rule, {}
        known, learned = known or {}, []
        for group in stack.layout.groups:
            present = stack.present(group)
            unit = np.repeat(present.astype(np.float32)[:, :, None], group.in_features, axis=2)
            both = present[:, 0] & present[:, 1]
            unit[both, :2] = rule
            for row, layer in enumerate(group.layers):
                if both[row] and layer in known:
                    unit[row, :2] = known[layer]
                    learned.append(layer)
            self.unit[group.coefficients] = unit
        self.learned = frozenset(learned)
        """The layers that have a pair of `known`."""
        # At least 1, which K-LoRA gives the LoRA that it picks.
        self._peaks = {name: np.abs(unit).max(axis=2, initial=1) for name, unit in self.unit.items()}
        self.values = {name: unit.copy() for name, unit in self.unit.items()}

    def write(self, strengths: Sequence[float], block_weights: BlockWeights | None = None) -> None:
        """Write the coefficients for strengths, one for each LoRA, into `values`."""
        self._multiply(self.unit, strengths, block_weights, self.values)

    def at(
        self,
        strengths: Sequence[float],
        block_weights: BlockWeights | None = None,
        picks: Mapping[str, int] | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the coefficients for strengths in new arrays; of one LoRA alone in the layers that `picks` names."""
        made = {name: unit.copy() for name, unit in self.unit.items()}
        if picks:
            self._pick(made, picks)
        self._multiply(made, strengths, block_weights, made)
        return made

    def _multiply(
        self,
        unit: Mapping[str, np.ndarray],
        strengths: Sequence[float],
        block_weights: BlockWeights | None,
        out: Mapping[str, np.ndarray],
    ) -> None:
        for name, factor in self._factors(Factors(self.stack, strengths, block_weights or {})).items():
            np.multiply(unit[name], factor[:, :, None], out=out[name])

    def _factors(self, factors: Factors) -> dict[str, np.ndarray]:
        """Return what the coefficients (N, K, in) of each group are multiplied by, (N, K).

        Raises InputError where a product overflows, before any is written.
        """
        found = {}
        for group in self.stack.layout.groups:
            factor = np.zeros((len(group.modules), self.stack.roles.shape[1]), np.float32)
            factor[:, : len(self.stack.loras)] = [factors.of(layer) for layer in group.layers]
            with np.errstate(over="ignore"):
                largest = factor * self._peaks[group.coefficients]
            if not np.isfinite(largest).all():
                raise InputError("the coefficients are too large for float32; use smaller strengths or block weights")
            found[group.coefficients] = factor
        return found

    def _pick(self, unit: Mapping[str, np.ndarray], picks: Mapping[str, int]) -> None:
        """Let one of the first two LoRAs alone have each of these layers (by full name), as K-LoRA does."""
        for group in self.stack.layout.groups:
            for row, layer in enumerate(group.layers):
                if layer in picks:
                    unit[group.coefficients][row, :2] = 0
                    unit[group.coefficients][row, picks[layer]] = 1


def blends_apart(stack: Stack, strengths: Sequence[Strengths], block_weights: BlockWeights) -> list[Apart]:
    """Return each image's blends of a composed start: content and style alone, and neither, beside the other LoRAs.

    Raises InputError for a stack of fewer than two LoRAs.
    """
    if len(stack.loras) < 2:
        raise InputError("a composed start puts two LoRAs' answers together; load a content and a style LoRA")
    whole = Blender(stack, 1.0)

    def at(content: int, style: int, given: Sequence[float]) -> Coefficients:
        return whole.at((content * given[0], style * given[1], *given[2:]), block_weights)

    def blend(content: int, style: int, given: Strengths) -> Blend:
        if callable(given):
            return lambda step, steps: at(content, style, given(step, steps))
        return at(content, style, given)

    return [Apart(blend(1, 0, given), blend(0, 1, given), blend(0, 0, given)) for given in strengths]


class Factors:
    """What multiplies the unit coefficients of each LoRA, module by module: its strength times the block weights."""

    def __init__(self, stack: Stack, strengths: Sequence[float], block_weights: BlockWeights) -> None:
        self._strengths = np.array(check_strengths(strengths, len(stack.loras)), np.float32)
        self._weights = _check_block_weights(block_weights, stack)

    def of(self, layer: str) -> Float[np.ndarray, " loras"]:
        """Return the factors of a layer by its full name, whether an adapter holds it or not."""
        factors = self._strengths
        for start, each in self._weights.items():
            if _is_in(layer.removeprefix(UNET), start):
                with np.errstate(over="ignore"):
                    factors = factors * each
        return factors


class FileMerge:
    """A blend as an ordinary LoRA: up = [up_0, up_1, …] and down = [down_0·diag(m_0); down_1·diag(m_1); …]."""

    def __init__(self, blender: Blender, factors: Factors) -> None:
        self.loras, self.rule, self._learned = blender.stack.loras, blender.rule, blender.learned
        self._factors = factors
        self._names = dict.fromkeys(name for lora in self.loras for name in lora.layers)
        # Copied: a blender's next merge writes into these arrays, and layers of files are made only when they are read.
        self._places = {
            layer: blender.values[group.coefficients][row].copy()
            for layer, (group, row) in blender.stack.layout.places.items()
        }

    def layers(self) -> dict[str, LoraLayer]:
        """Return all layers that a LoRA has.

        Those outside the layout get the rule, strengths and block weights. Raises InputError for LoRAs that disagree on
        a layer's shape, and for a result beyond float32: of files that are read layer by layer, when one is read.
        """
        return {name: self._layer(name) for name in self._names}

    def learned(self) -> dict[str, np.ndarray]:
        """Return the coefficients (2, in) of the learned layers, strengths included."""
        return {name: values[:2] for name, values in self._places.items() if name in self._learned}

    def kinds(self) -> dict[str, str]:
        """Say how each layer came about."""
        content, style = (self.loras[number].layers if number < len(self.loras) else {} for number in (0, 1))
        words = {(True, True): RULE, (True, False): CONTENT_ONLY, (False, True): STYLE_ONLY}
        kinds = {name: words.get((name in content, name in style), OTHERS_ONLY) for name in self._names}
        return kinds | dict.fromkeys(self._learned, LEARNED)

    def _layer(self, name: str) -> LoraLayer:
        has = [(number, lora.layers[name]) for number, lora in enumerate(self.loras) if name in lora.layers]
        if name in self._places:
            weights: list[np.ndarray | float] = [self._places[name][number] for number, _ in has]
        else:
            both = {0, 1} <= {number for number, _ in has}
            factors = self._factors.of(name)
            weights = [float(factors[number]) * (self.rule if both and number < 2 else 1.0) for number, _ in has]
        shapes = sorted({layer.weight_shape for _, layer in has})
        if len(shapes) > 1:
            raise InputError(f"the LoRAs disagree on {name}: {shapes}; only LoRAs of the same base model can be merged")
        with np.errstate(over="ignore", invalid="ignore"):
            joined = join_columns([layer for _, layer in has], weights)
        return refuse_overflow(joined, name)


def check_coefficients(given: Mapping[str, np.ndarray], stack: Stack) -> dict[str, np.ndarray]:
    """Return given coefficients, (2, in) by full layer name, of the layout's layers.

    Raises InputError for a layer that neither the layout nor a LoRA has, for a wrong shape, and for numbers that are
    not finite.
    """
    places, found = stack.layout.places, {}
    for name, pair in given.items():
        if name in places:
            numbers, shape = finite(pair), (2, places[name][0].in_features)
            if numbers is None or numbers.shape != shape:
                raise InputError(f"`coefficients` of {name} are not {shape} finite numbers; give one for each column")
            found[name] = numbers
        elif not any(name in lora.layers for lora in stack.loras):
            raise InputError(
                f"`coefficients` names {name}, a layer that neither {stack.layout.base} nor a loaded LoRA has; give "
                f"full names, such as {next(iter(places))}"
            )
    return found


def _is_in(module: str, start: str) -> bool:
    return module == start or module.startswith(start + ".")


def _check_block_weights(given: BlockWeights, stack: Stack) -> dict[str, np.ndarray]:
    """Return block weights as (K,) each; InputError for a block that has no layer, and for wrong numbers."""
    found, loras = {}, len(stack.loras)
    names = [layer.removeprefix(UNET) for layer in stack.layout.layers] if given else []
    for start, weight in given.items():
        if not isinstance(start, str):
            raise InputError(f"`block_weights` names {start!r}; give a block's name, such as down_blocks.1")
        each = finite(weight)
        if each is None or each.shape not in ((), (loras,)):
            raise InputError(f"`block_weights` of {start} are {weight}; give a finite number, or one for each LoRA")
        if not any(_is_in(name, start) for name in names):
            blocks = dict.fromkeys(".".join(name.split(".")[:2]) for name in names)
            raise InputError(f"`block_weights` names {start}, which has no layer; there are {', '.join(blocks)}")
        found[start] = np.broadcast_to(each, loras)
    return found
