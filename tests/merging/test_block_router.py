"""CRAFT-LoRA's block router, by the names of the base's blocks."""

from __future__ import annotations

import numpy as np
from tiny_world import dense_delta as dense

from lorarar.layout import Layout
from lorarar.lora import LoRA, LoraLayer
from lorarar.merging import MergeOptions, merge_loras


def test_the_block_router_keeps_one_lora_a_block() -> None:
    """By the base's real names: what is in the content's blocks, in the style's, and outside the UNet."""
    places = {"down_blocks.1.attentions.0": 0, "down_blocks.2.attentions.1": 0, "mid_block.attentions.0": 0}
    places |= {"up_blocks.0.attentions.0": 0, "up_blocks.0.attentions.1": 1, "up_blocks.1.attentions.0": 1}
    linears = [(f"{place}.transformer_blocks.0.attn1.to_q", 6, 6) for place in places]
    layout = Layout.from_linears("tiny", linears)
    rng = np.random.default_rng(0)

    def layer(rank: int) -> LoraLayer:
        return LoraLayer(*(rng.standard_normal(shape).astype(np.float32) for shape in ((rank, 6), (6, rank))))

    names = [*(f"unet.{name}" for name, *_ in linears), "text_encoder.text_model.layers.0.q_proj"]
    loras = [LoRA({name: layer(rank) for name in names}, source=str(rank)) for rank in (2, 3)]
    options = MergeOptions(rule="sum", content_scale=0.5, style_scale=2.0)
    merged = merge_loras(*loras, layout, "block-router", options)
    assert merged.truncation is None
    for name, role in zip(names, places.values(), strict=False):
        item = merged.lora.layers[name]
        assert item.rank == loras[role].layers[name].rank
        np.testing.assert_allclose(dense(item), (0.5, 2.0)[role] * dense(loras[role].layers[name]), rtol=1e-6)
    want = 0.5 * dense(loras[0].layers[names[-1]]) + 2 * dense(loras[1].layers[names[-1]])
    np.testing.assert_allclose(dense(merged.lora.layers[names[-1]]), want, rtol=1e-5)
    assert merged.kinds[names[-1]] == "rule" and merged.kinds[names[0]] == "method"
