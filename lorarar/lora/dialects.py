"""The dialects of LoRA files, and the formats that are no LoRA but look like one. Tables; numpy only."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import NamedTuple

from lorarar.lora.names import kohya_lookup, sgm_lookup

_UNET_ROOTS = (
    *("conv_in", "time_embedding", "add_embedding", "class_embedding", "encoder_hid_proj"),
    *("down_blocks", "mid_block", "up_blocks", "conv_out"),
)
# transformers 5 dropped `text_model.` from CLIPTextModel's names, so both spellings occur.
_TEXT_ROOTS = ("text_model", "text_projection", "encoder")
MAX_KEY = 512  # characters; real ones have up to 130, and PEFT's patterns are matched in cubic time
_PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}
WRAPPED = "base_model.model."  # what PEFT puts before the names of its own files, and nobody else does


class TensorRole(Enum):
    """The part that a tensor plays in its layer."""

    DOWN = "down"
    UP = "up"
    ALPHA = "alpha"


class AmbiguousName(Exception):
    """A text-encoder module without its component: CLIP-L and CLIP-G share these names."""


class Key(NamedTuple):
    """A tensor's name, understood. `module` is the full name; `raw` the name before any prefix was removed."""

    dialect: str
    module: str
    role: TensorRole
    raw: str


class Dialect(NamedTuple):
    """One way to name a LoRA's tensors.

    `pattern` has the groups `module`, `role` and, in the processor dialect, `part`; `resolve` turns its match into the
    full module name, or None when the name is none of this dialect's.
    """

    name: str
    example: str
    pattern: re.Pattern[str]
    resolve: Callable[[re.Match[str], str], str | None]


class Foreign(NamedTuple):
    """A format that is refused: its name, what marks a key of it, and what to do instead."""

    name: str
    pattern: re.Pattern[str]
    advice: str


def full_name(module: str, component: str) -> str | None:
    """Put the component (`unet.`, `text_encoder.`, `text_encoder_2.`) before a dotted module name; None if it has none.

    `component` ("" if unknown) is that of names without one. Raises AmbiguousName for a text encoder's that needs it.
    """
    rest = module.removeprefix(WRAPPED)
    while rest.startswith("unet."):  # some diffusers releases wrote `unet.unet.`
        rest, component = rest.removeprefix("unet."), "unet"
    for text in ("text_encoder", "text_encoder_2"):
        if rest.startswith(f"{text}."):
            rest, component = rest.removeprefix(f"{text}.").removeprefix(WRAPPED), text
    root = rest.partition(".")[0]
    if root in _UNET_ROOTS and component in ("", "unet"):
        return f"unet.{rest}" + (".0" if rest.endswith(".to_out") else "")
    if root in _TEXT_ROOTS and component != "unet":
        if not component:
            raise AmbiguousName(module)
        return f"{component}.{'text_model.' if root == 'encoder' else ''}{rest}"
    return None


def _dotted(match: re.Match[str], component: str) -> str | None:
    return full_name(match["module"], component)


def _processor(match: re.Match[str], component: str) -> str | None:
    """Turn `….attn1.processor.to_out_lora` into `….attn1.to_out.0`; in a text encoder into `….self_attn.out_proj`."""
    part = match["part"]
    tail = _PROJECTIONS[part] if match["module"].endswith(".self_attn") else f"to_{part}"
    return full_name(f"{match['module']}.{tail}", component)


def _flat(dialect: str, match: re.Match[str], _: str) -> str | None:
    kind, module = kohya_lookup().get(match["module"], ("", ""))
    return module if kind == dialect else None


def _lycoris(match: re.Match[str], _: str) -> str | None:
    return kohya_lookup().get(f"lora_unet_{match['flat']}", ("", None))[1]


_COMPONENTS = {
    **dict.fromkeys(("text_encoders.clip_l.transformer", "clip_l", "lora_te", "lora_te1"), "text_encoder"),
    **dict.fromkeys(("text_encoders.clip_g.transformer", "clip_g", "lora_te2"), "text_encoder_2"),
    "lora_unet": "unet",
}
"""What ComfyUI and OneTrainer put before the names of a component."""


def _rooted(match: re.Match[str], _: str) -> str | None:
    """Turn a root of `_COMPONENTS` into the component; any other root is the UNet's, before an SGM name."""
    component = _COMPONENTS.get(match["root"])
    return full_name(f"{component}.{match['name']}", "") if component else sgm_lookup().get(match["name"])


def _with_root(name: str, roots: str, example: str, words: str = "lora_down|lora_up") -> Dialect:
    pattern = rf"(?P<module>(?P<root>{roots})\.(?P<name>.+))\.(?P<role>(?:{words})\.weight|alpha)"
    return Dialect(name, example, re.compile(pattern), _rooted)


_KOHYA_TAIL = r"\.(?P<role>lora_down\.weight|lora_up\.weight|alpha)"
_KOHYA_UNET = r"(?:unet\.)?(?P<module>lora_unet_[^.]+)"  # some tools put diffusers' `unet.` before kohya's names


def _kohya(name: str, module: str, example: str) -> Dialect:
    return Dialect(name, example, re.compile(module + _KOHYA_TAIL), partial(_flat, name))


# A key is tried against each in turn. Error messages list them in this order, the most frequent first.
DIALECTS: tuple[Dialect, ...] = (
    Dialect(
        "peft",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
        re.compile(r"(?P<module>.+)\.(?P<role>lora_A|lora_B)(\.default)?\.weight"),
        _dotted,
    ),
    Dialect(
        "diffusers",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight",
        re.compile(r"(?P<module>.+)\.lora(_linear_layer)?\.(?P<role>down\.weight|up\.weight|alpha)"),
        _dotted,
    ),
    Dialect(
        "diffusers-processors",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight",
        re.compile(
            r"(?P<module>.+?)(\.processor)?\.to_(?P<part>q|k|v|out)_lora\.(?P<role>down\.weight|up\.weight|alpha)"
        ),
        _processor,
    ),
    _kohya("kohya-sgm", _KOHYA_UNET, "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight"),
    _kohya(
        "kohya-diffusers",
        _KOHYA_UNET,
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight",
    ),
    _kohya(
        "kohya-text",
        r"(?P<module>lora_te[12]?_[^.]+)",
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight",
    ),
    Dialect(
        "lycoris",
        "lycoris_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight",
        re.compile(r"(?P<module>lycoris_(?P<flat>[^.]+))" + _KOHYA_TAIL),
        _lycoris,
    ),
    _with_root(
        "comfy",
        r"diffusion_model|text_encoders\.clip_[lg]\.transformer",
        "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.lora_down.weight",
        "lora_down|lora_up|lora_A|lora_B",
    ),
    _with_root("omi", "unet|clip_[lg]", "unet.input_blocks.4.1.transformer_blocks.0.attn1.to_q.lora_down.weight"),
    _with_root(
        "onetrainer",
        "lora_unet|lora_te[12]?",
        "lora_unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_down.weight",
    ),
)

KNOWN = ", ".join(dialect.name for dialect in DIALECTS)
"""The dialects' names, for error messages."""

# `….alpha` beside dotted factors does not tell their dialect; it belongs to whichever layer it names.
DOTTED_ALPHA = Dialect(
    "",
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.alpha",
    re.compile(r"(?P<module>(?!lora_).+)\.(?P<role>alpha)"),
    lambda match, component: full_name(match["module"].replace(".processor.", "."), component),
)

_ROLES = {
    **dict.fromkeys(("lora_A", "lora_A.weight", "lora_down.weight", "down.weight"), TensorRole.DOWN),
    **dict.fromkeys(("lora_B", "lora_B.weight", "lora_up.weight", "up.weight"), TensorRole.UP),
    "alpha": TensorRole.ALPHA,
}

_EXTRACT = "merge it into its base model and extract a plain LoRA of the difference (kohya's and LyCORIS's tools do it)"
CONVERT = "make a plain LoRA of it with  lorarar convert --rank 64"
"""What to do about a format that can be made plain, for error messages."""
FOREIGN: tuple[Foreign, ...] = (
    Foreign("LoHa", re.compile(r"\.hada_[wt][12]"), CONVERT),
    Foreign("LoKr", re.compile(r"\.lokr_[wt][12]"), CONVERT),
    Foreign("DoRA", re.compile(r"\.(dora_scale|lora_magnitude_vector)"), f"train it with DoRA off, or {CONVERT}"),
    Foreign("KaSA", re.compile(r"\.lora_diag"), "train it as a LoRA instead"),
    Foreign("BOFT", re.compile(r"\.boft_"), _EXTRACT),
    Foreign("OFT", re.compile(r"\.oft_"), _EXTRACT),
    Foreign("Tucker convolution (lora_mid)", re.compile(r"\.lora_mid"), "train it with use_tucker (or use_cp) off"),
    Foreign("GLoRA", re.compile(r"\.[ab][12]\.weight$"), _EXTRACT),
    Foreign("(IA)³", re.compile(r"\.(ia3_l|on_input$)"), "train it as a LoRA instead"),
    Foreign("VeRA", re.compile(r"\.?vera_"), "train it as a LoRA instead"),
    Foreign("embedding LoRA", re.compile(r"\.lora_embedding_[AB]"), "train it without the embedding layer"),
    Foreign("LoRA with biases", re.compile(r"\.lora_(B|up)(\.default)?\.bias$"), "train it with lora_bias off"),
    Foreign("full-weight difference", re.compile(r"\.(diff|diff_b)$"), CONVERT),
    Foreign("whole weight", re.compile(r"\.set_weight$"), _EXTRACT),
    Foreign("norm difference", re.compile(r"\.[wb]_norm$"), "train it with train_norm off"),
    Foreign("bundled textual inversion", re.compile(r"^bundle_emb\."), "save it without its embeddings"),
)


FACTOR = re.compile(r"\.lora_(A|B|up|down)|lora(_linear_layer)?\.(up|down)\.")
"""What is in the name of a factor, whatever its module: one that no dialect knows is of another base's LoRA."""


def parse_key(key: str, component: str) -> Key | None:
    """Understand a tensor's name; None when no dialect knows it. `component` ("" if unknown) is for bare names.

    Raises AmbiguousName for a bare text-encoder name without `component`.
    """
    if len(key) > MAX_KEY:
        return None
    for dialect in (*DIALECTS, DOTTED_ALPHA):
        match = dialect.pattern.fullmatch(key)
        module = dialect.resolve(match, component) if match else None
        if match and module:
            return Key(dialect.name, module, _ROLES[match["role"]], match["module"])
    return None


def foreign_format(key: str) -> Foreign | None:
    """Return the refused format that a key belongs to, if any."""
    return next((foreign for foreign in FOREIGN if foreign.pattern.search(key)), None)
