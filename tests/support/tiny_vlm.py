"""A tiny image-text-to-text model with its processor, built from nothing: LLaVA's classes with random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from lorarar.toolchains import quiet_toolchains

TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def save_tiny_vlm(folder: Path, words: tuple[str, ...] = ("Yes", "No", "yes", "no", "YES"), seed: int = 0) -> Path:
    """Each of `words` is one token of its own; other text falls apart into bytes. Images become 2×2 patches."""
    with quiet_toolchains():
        from transformers import (
            CLIPImageProcessor,
            CLIPVisionConfig,
            LlamaConfig,
            LlavaConfig,
            LlavaForConditionalGeneration,
            LlavaProcessor,
        )

        tokenizer = _tokenizer(words)
        processor = LlavaProcessor(
            image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
            tokenizer=tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            chat_template=TEMPLATE,
            num_additional_image_tokens=1,
        )
        vision = CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        )
        text = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=2048,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            initializer_range=0.3,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlavaForConditionalGeneration(
                LlavaConfig(
                    vision_config=vision,
                    text_config=text,
                    image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
                    vision_feature_layer=-1,
                )
            )
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


def _tokenizer(words: tuple[str, ...]) -> object:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in words:
        done = word[0]
        for letter in word[1:]:
            if done + letter not in vocabulary:
                vocabulary[done + letter] = len(vocabulary)
                merges.append((done, letter))
            done += letter
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<|end|>",
        additional_special_tokens=["<image>", "<|start|>"],
    )
