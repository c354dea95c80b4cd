"""The module names of the SDXL family and what kohya calls them, generated from the structure of the blocks.

kohya writes `_` for `.`, which can't be undone by string surgery (`to_q` holds one too). The lookup goes the other way:
every real name is flattened and looked up. SGM names (`input_blocks_4_1_…`, Stability's own code) always mean SDXL's
block structure. KOALA's modules are a subset of SDXL's. A test compares these names with the real models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

CLIP_L_LAYERS = 12
CLIP_G_LAYERS = 32

# A block's kind → (name inside the diffusers block, name inside the SGM block).
_PARTS: dict[str, tuple[tuple[str, str], ...]] = {
    "resnet": (("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"), ("conv2", "out_layers.3")),
    "shortcut": (("conv_shortcut", "skip_connection"),),
    "transformer": (("proj_in", "proj_in"), ("proj_out", "proj_out")),
    "down": (("conv", "op"),),
    "up": (("conv", "conv"),),
}
_TRANSFORMER_BLOCK = (
    *(f"{attention}.{part}" for attention in ("attn1", "attn2") for part in ("to_q", "to_k", "to_v", "to_out.0")),
    "ff.net.0.proj",
    "ff.net.2",
)
# Single modules: diffusers name → SGM name.
_SINGLES: dict[str, str] = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_out": "out.2",
}
_ENCODER_LAYER = (*(f"self_attn.{part}_proj" for part in ("k", "v", "q", "out")), "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class _UNetBlock:
    """A resnet, a transformer or a sampler of the UNet under its two names; `depth` counts a transformer's blocks."""

    name: str
    sgm: str
    kinds: tuple[str, ...]
    depth: int = 0

    def modules(self) -> Iterator[tuple[str, str]]:
        for kind in self.kinds:
            for part, sgm_part in _PARTS[kind]:
                yield f"{self.name}.{part}", f"{self.sgm}.{sgm_part}"
        for index in range(self.depth):
            for part in _TRANSFORMER_BLOCK:
                tail = f"transformer_blocks.{index}.{part}"
                yield f"{self.name}.{tail}", f"{self.sgm}.{tail}"


def _layer(name: str, at: int, sgm: str, shortcut: bool, depth: int) -> Iterator[_UNetBlock]:
    """Yield a block's resnet number `at` and, but for depth 0, the transformer after it."""
    yield _UNetBlock(f"{name}.resnets.{at}", f"{sgm}.0", ("resnet", "shortcut") if shortcut else ("resnet",))
    if depth:
        yield _UNetBlock(f"{name}.attentions.{at}", f"{sgm}.1", ("transformer",), depth)


def _unet_blocks() -> Iterator[_UNetBlock]:
    """Yield the way down (two resnets a block, the first one wider), the middle, and the way up (three resnets).

    SGM numbers the resnets of a way through. On the way down what halves the resolution has a number of its own; on the
    way up what doubles it stands behind the last resnet.
    """
    for block, depth in enumerate((0, 2, 10)):
        for at in range(2):
            sgm = f"input_blocks.{1 + 3 * block + at}"
            yield from _layer(f"down_blocks.{block}", at, sgm, shortcut=block > 0 and at == 0, depth=depth)
        if block < 2:
            yield _UNetBlock(f"down_blocks.{block}.downsamplers.0", f"input_blocks.{3 + 3 * block}.0", ("down",))
    yield _UNetBlock("mid_block.resnets.0", "middle_block.0", ("resnet",))
    yield _UNetBlock("mid_block.attentions.0", "middle_block.1", ("transformer",), 10)
    yield _UNetBlock("mid_block.resnets.1", "middle_block.2", ("resnet",))
    for block, depth in enumerate((10, 2, 0)):
        for at in range(3):
            sgm = f"output_blocks.{3 * block + at}"
            yield from _layer(f"up_blocks.{block}", at, sgm, shortcut=True, depth=depth)
        if block < 2:
            yield _UNetBlock(f"up_blocks.{block}.upsamplers.0", f"output_blocks.{3 * block + 2}.2", ("up",))


@cache
def unet_modules() -> MappingProxyType[str, str]:
    """List every linear and convolution of SDXL's UNet: name in diffusers → name in SGM."""
    return MappingProxyType(_SINGLES | dict(pair for block in _unet_blocks() for pair in block.modules()))


@cache
def text_modules(component: str) -> tuple[str, ...]:
    """List every linear of a text encoder: CLIP-L for `text_encoder`, CLIP-G for `text_encoder_2`."""
    layers = CLIP_L_LAYERS if component == "text_encoder" else CLIP_G_LAYERS
    names = [f"text_model.encoder.layers.{index}.{part}" for index in range(layers) for part in _ENCODER_LAYER]
    return (*names, "text_projection") if component == "text_encoder_2" else tuple(names)


def flatten(name: str) -> str:
    """Spell a module name as kohya does."""
    return name.replace(".", "_")


@cache
def sgm_lookup() -> MappingProxyType[str, str]:
    """Map the UNet's dotted SGM names, as ComfyUI and OneTrainer write them, to full module names."""
    return MappingProxyType({sgm: f"unet.{name}" for name, sgm in unet_modules().items()})


def is_convolution(module: str) -> bool:
    """Tell whether a module of the UNet or of a text encoder is a convolution; all others are linear."""
    return module.rpartition(".")[2].startswith("conv")


@cache
def kohya_lookup() -> MappingProxyType[str, tuple[str, str]]:
    """Map kohya's flat names (`lora_unet_…`) to (dialect, full module name)."""
    found: dict[str, tuple[str, str]] = {}
    for name, sgm in unet_modules().items():
        found[f"lora_unet_{flatten(name)}"] = ("kohya-diffusers", f"unet.{name}")
        found[f"lora_unet_{flatten(sgm)}"] = ("kohya-sgm", f"unet.{name}")
    for component, prefixes in {"text_encoder": ("te", "te1"), "text_encoder_2": ("te2",)}.items():
        for name in text_modules(component):
            # transformers 5 dropped `text_model.` from the names that trainers flatten.
            for flat in {flatten(name), flatten(name.removeprefix("text_model."))}:
                found |= {f"lora_{prefix}_{flat}": ("kohya-text", f"{component}.{name}") for prefix in prefixes}
    return MappingProxyType(found)


_OF_SDXL_ALONE = re.compile(r"unet\.(down_blocks\.\d\.\w+\.1|up_blocks\.\d\.\w+\.2)\.")


def is_of_sdxl(modules: Iterable[str]) -> bool:
    """Tell whether a LoRA of these modules is SDXL's and not KOALA's, whose blocks have a layer less each."""
    return any(map(_OF_SDXL_ALONE.match, modules))


def architecture(modules: Iterable[str]) -> str:
    """Return what a base of these modules is to a file's reader: `sdxl` or `koala`."""
    return "sdxl" if is_of_sdxl(modules) else "koala"


@cache
def kohya_names(sgm: bool) -> MappingProxyType[str, str]:
    """Map full module names to the flat names to write, with SGM's block names or diffusers'.

    SGM's are for SDXL alone: on KOALA, which has one layer per block, diffusers would map them to the wrong blocks.
    They are not mixed: InvokeAI refuses a file of both, and A1111 drops the last upsampler of diffusers' names. With
    those, the added-condition embedding alone gets its SGM name, since neither diffusers nor ComfyUI understands the
    other one.
    """
    names = {
        f"unet.{name}": f"lora_unet_{flatten(own if sgm or name.startswith('add_embedding') else name)}"
        for name, own in unet_modules().items()
    }
    for component, prefix in {"text_encoder": "te1", "text_encoder_2": "te2"}.items():
        names |= {f"{component}.{name}": f"lora_{prefix}_{flatten(name)}" for name in text_modules(component)}
    return MappingProxyType(names)
