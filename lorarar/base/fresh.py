"""Make a new pipeline of SDXL's structure with KOALA's cuts, of any size, in diffusers' and transformers' classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lorarar.toolchains import quiet_toolchains

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

MAX_TOKENS = 77  # CLIP's, which SDXL's contract fixes
MINIATURE_SCALE = 4  # the side in image pixels of one latent pixel, which the VAE's two halvings give


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
    """Make an untrained StableDiffusionXLPipeline; the same seed gives the same weights."""
    with quiet_toolchains():
        from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = [
            {"hidden_size": width, "num_hidden_layers": sizes.text_layers, "num_attention_heads": width // sizes.head}
            for width in sizes.text
        ]
        first, second = text_encoders(tokenizer, text, len(tokenizer))
        vae, unet = _vae(sizes), _unet(sizes)
    # KOALA-Lightning's sampler: Euler, trailing spacing. SDXL predicts the noise and ends before all signal is gone;
    # latents this small keep their mean colour through that, and an error of the first step is multiplied by sigma. So
    # the last step is pure noise here and v is predicted (arXiv 2305.08891), as SDXL's v-prediction descendants do.
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
    )
    return StableDiffusionXLPipeline(
        vae,
        first,
        second,
        tokenizer,
        tokenizer,
        unet,
        scheduler,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def _vae(sizes: Sizes) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=sizes.vae,
        layers_per_block=1,
        norm_num_groups=16,
        sample_size=sizes.resolution,
        mid_block_add_attention=False,
    )


def _unet(sizes: Sizes) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=sizes.latent,
        block_out_channels=sizes.unet,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        # diffusers builds no transformer for a level without attention, but wants a positive number
        transformer_layers_per_block=tuple(max(depth, 1) for depth in sizes.depths),
        attention_head_dim=tuple(width // sizes.head for width in sizes.unet),
        cross_attention_dim=sum(sizes.text),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=sizes.time,
        projection_class_embeddings_input_dim=6 * sizes.time + sizes.text[1],
        norm_num_groups=16,
    )


def text_encoders(
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
