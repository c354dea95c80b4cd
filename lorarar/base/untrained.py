"""Make pipelines that nobody trained: new ones of any size, named bases for dry runs, their mere shapes for plans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lorarar.base.names import CONFIGS, MINIATURE, unet_config
from lorarar.errors import InputError
from lorarar.toolchains import quiet_toolchains

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

MAX_TOKENS = 77  # CLIP's, which SDXL's contract fixes
MINIATURE_SCALE = 4  # the side in image pixels of one latent pixel, which the VAE's two halvings give
SEED = 0
SDXL_SCALE = 8  # the side in image pixels of one latent pixel, of SDXL and KOALA
NETWORKS = ("text_encoder", "text_encoder_2", "unet", "vae")
"""The components of a pipeline that have weights."""

# An untrained base has no tokenizer file; a few captions are enough for one that cuts any prompt into known pieces.
_CAPTIONS = ("a photo of a dog", "a sks cat in watercolor painting style", "an oil painting of a house")

_VOCABULARY = 49408  # CLIP's, which is a twentieth of the second encoder

VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}
_NOISE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# SDXL's text encoders: CLIP ViT-L/14 and OpenCLIP ViT-bigG/14.
TEXT_ENCODERS: tuple[dict[str, Any], dict[str, Any]] = (
    {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "quick_gelu"},
    {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20, "hidden_act": "gelu"},
)


@dataclass(frozen=True)
class Sizes:
    """The sizes of every network. The defaults are the shipped miniature's."""

    latent: int = 24  # latent pixels a side
    unet: tuple[int, int, int] = (48, 96, 192)
    depths: tuple[int, int, int] = (0, 1, 2)  # transformer blocks a level; KOALA-700M has (0, 2, 5)
    head: int = 32  # channels of one attention head
    vae: tuple[int, int, int] = (32, 64, 96)
    text: tuple[int, int] = (128, 192)  # hidden sizes of the two encoders; SDXL has (768, 1280)
    text_layers: int = 3
    time: int = 32  # size of the embedding of each of the six size numbers; SDXL has 256

    @property
    def resolution(self) -> int:
        """The side of an image in pixels."""
        return self.latent * MINIATURE_SCALE


def build_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """Make CLIP's byte-level BPE with a vocabulary of the captions' words; other words fall apart into letters.

    Merges are added word by word, the most frequent first, so the result depends on nothing but the captions.
    """
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters)]
    known = set(vocabulary)
    merges: list[str] = []
    counts = Counter(word for caption in captions for word in caption.lower().split() if word.isalpha())
    for word in sorted(counts, key=lambda word: (-counts[word], word)):
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        # From the left: a word's prefixes are shared by words that begin alike.
        while len(pieces) > 1:
            left, right = pieces[:2]
            pieces[:2] = [left + right]
            if left + right not in known:
                known.add(left + right)
                vocabulary.append(left + right)
                merges.append(f"{left} {right}")
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    numbered = {piece: index for index, piece in enumerate(vocabulary)}
    # Its annotation says list[str]; its BPE wants pairs.
    pairs: Any = [tuple(merge.split()) for merge in merges]
    return CLIPTokenizer(numbered, pairs, model_max_length=MAX_TOKENS)


def new_pipeline(sizes: Sizes, tokenizer: CLIPTokenizer, seed: int) -> StableDiffusionXLPipeline:
    """Make a pipeline of SDXL's structure with KOALA's cuts; the same seed gives the same weights."""
    with quiet_toolchains():
        from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = [
            {"hidden_size": width, "num_hidden_layers": sizes.text_layers, "num_attention_heads": width // sizes.head}
            for width in sizes.text
        ]
        first, second = _text_encoders(tokenizer, text, len(tokenizer))
        vae, unet = AutoencoderKL(**_vae_config(sizes)), UNet2DConditionModel(**_unet_config(sizes))
    # KOALA-Lightning's sampler: Euler, trailing spacing. SDXL predicts the noise and ends before all signal is gone;
    # latents this small keep their mean colour through that, and an error of the first step is multiplied by sigma. So
    # the last step is pure noise here and v is predicted (arXiv 2305.08891), as SDXL's v-prediction descendants do.
    scheduler = EulerDiscreteScheduler(
        **_NOISE, timestep_spacing="trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    return StableDiffusionXLPipeline(vae, first, second, tokenizer, tokenizer, unet, scheduler, add_watermarker=False)


def _vae_config(sizes: Sizes) -> dict[str, Any]:
    return {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": sizes.vae,
        "layers_per_block": 1,
        "norm_num_groups": 16,
        "sample_size": sizes.resolution,
        "mid_block_add_attention": False,
    }


def _unet_config(sizes: Sizes) -> dict[str, Any]:
    return {
        "sample_size": sizes.latent,
        "block_out_channels": sizes.unet,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "mid_block_type": None,
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        # diffusers builds no transformer for a level without attention, but wants a positive number
        "transformer_layers_per_block": tuple(max(depth, 1) for depth in sizes.depths),
        "attention_head_dim": tuple(width // sizes.head for width in sizes.unet),
        "cross_attention_dim": sum(sizes.text),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": sizes.time,
        "projection_class_embeddings_input_dim": 6 * sizes.time + sizes.text[1],
        "norm_num_groups": 16,
    }


def _text_encoders(
    tokenizer: CLIPTokenizer, sizes: Sequence[Mapping[str, Any]], vocabulary: int
) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Make SDXL's two text encoders; `sizes` are the fields of each one's config that are not the same for both."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    configs = [
        CLIPTextConfig(
            vocab_size=vocabulary,
            intermediate_size=4 * fields["hidden_size"],
            projection_dim=fields["hidden_size"],
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **fields,
        )
        for fields in sizes
    ]
    return CLIPTextModel(configs[0]), CLIPTextModelWithProjection(configs[1])


def untrained_pipeline(base: str, dtype: torch.dtype, unet: bool) -> Any:
    """Make a named base as a StableDiffusionXLPipeline, its VAE in fp32; without `unet` its place is empty."""
    _require_named(base)
    tokenizer = build_tokenizer(_CAPTIONS)
    if base == MINIATURE:
        pipeline: Any = new_pipeline(Sizes(), tokenizer, SEED)
        for network in (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.unet):
            network.to(dtype)
        return pipeline
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    first, second, whole, vae = _networks(CONFIGS[base] if unet else None, tokenizer, dtype)
    scheduler = EulerDiscreteScheduler(**_NOISE, steps_offset=1, timestep_spacing="leading")
    return StableDiffusionXLPipeline(vae, first, second, tokenizer, tokenizer, whole, scheduler, add_watermarker=False)


def untrained_unet(base: str, dtype: torch.dtype) -> tuple[Any, int]:
    """Make the UNet alone of a named base; return it, and the side in image pixels of one latent pixel."""
    with quiet_toolchains():
        from diffusers import UNet2DConditionModel
    _require_named(base)
    with torch.random.fork_rng(devices=[]), _default_dtype(dtype):
        torch.manual_seed(SEED)
        unet = UNet2DConditionModel.from_config(unet_config(base))
    return unet, MINIATURE_SCALE if base == MINIATURE else SDXL_SCALE


def meta_networks(base: str) -> dict[str, Any]:
    """Build SDXL's or a KOALA's networks by their pipeline names, on the meta device: shapes without weights."""
    tokenizer = build_tokenizer(_CAPTIONS)
    with quiet_toolchains(), torch.device("meta"):
        return dict(zip(NETWORKS, _networks(CONFIGS[base], tokenizer, torch.float32), strict=True))


def _require_named(base: str) -> None:
    if base not in (MINIATURE, *CONFIGS):
        raise InputError(f"`untrained` is for the named bases {', '.join([MINIATURE, *CONFIGS])}, not for {base!r}")


def _networks(config: dict[str, Any] | None, tokenizer: CLIPTokenizer, dtype: torch.dtype) -> tuple[Any, ...]:
    """Make SDXL's networks in the order of NETWORKS; without a config no UNet."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        vae = AutoencoderKL(**VAE)
        with _default_dtype(dtype):
            unet = UNet2DConditionModel.from_config(config) if config else None
            first, second = _text_encoders(tokenizer, TEXT_ENCODERS, _VOCABULARY)
    return first, second, unet, vae


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Build networks in `dtype` at once: SDXL's UNet in fp32 alone is 10 GB."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
