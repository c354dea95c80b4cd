"""Find which layers two LoRAs share, which only one has, and whether they fit a base. Numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lorarar.errors import InputError
from lorarar.layout import UNET, Group, Layout, part_of
from lorarar.lora import LoRA, LoraLayer
from lorarar.merging.types import LayerPair


@dataclass(frozen=True)
class Aligned:
    """The layers of two LoRAs by who has them, in the content's order."""

    pairs: tuple[LayerPair, ...]
    content_only: Mapping[str, LoraLayer]
    style_only: Mapping[str, LoraLayer]
    warnings: tuple[str, ...]


def align(content: LoRA, style: LoRA, layout: Layout) -> Aligned:
    """Pair the layers by name. Raises InputError when a LoRA has no attention linear of the base, when one of its
    layers has another shape than the base's, or when the two LoRAs disagree on a layer's shape.
    """
    places = {UNET + module: group for group in layout.groups for module in group.modules}
    warnings = [text for lora in (content, style) if (text := _check_base(lora, layout.base, places))]
    pairs = [
        LayerPair(name, layer, style.layers[name], places.get(name))
        for name, layer in content.layers.items()
        if name in style.layers
    ]
    for pair in pairs:
        if pair.content.weight_shape != pair.style.weight_shape:
            raise InputError(
                f"{content.source} and {style.source} disagree on {pair.name}: {pair.content.weight_shape} against "
                f"{pair.style.weight_shape}; only LoRAs of the same base model can be merged"
            )
    return Aligned(
        tuple(pairs),
        {name: layer for name, layer in content.layers.items() if name not in style.layers},
        {name: layer for name, layer in style.layers.items() if name not in content.layers},
        tuple(warnings),
    )


def _check_base(lora: LoRA, base: str, places: Mapping[str, Group]) -> str | None:
    attention = [name for name in lora.layers if name.startswith(UNET) and part_of(name)]
    inside = [name for name in attention if name in places]
    advice = "it was made for another base model: give the `base` that it was trained on"
    if not inside:
        raise InputError(
            f"{lora.source}: none of its {len(lora.layers)} layers is an attention linear of {base}; {advice}"
        )
    for name in inside:
        have, want = lora.layers[name].weight_shape, (places[name].out_features, places[name].in_features)
        if have != want:
            raise InputError(f"{lora.source}: {name} has shape {have}, {base} has {want}; {advice}")
    if len(inside) == len(attention):
        return None
    return (
        f"{lora.source}: {len(attention) - len(inside)} of its {len(attention)} attention layers are not in {base}; "
        "it was made for a larger base (an SDXL LoRA fits KOALA by name only: KOALA's blocks are distilled), so its "
        "effect may be weaker or different; those layers are merged by the rule and have no effect on this base"
    )
