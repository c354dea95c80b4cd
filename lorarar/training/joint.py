"""Train jointly, a baseline of the paper (appendix A1.3): one LoRA learns a subject and a style together.

Multi-concept DreamBooth: the content's images with the content's prompt and the style's with the style's take turns,
and every pair of a content and a style needs a training of its own.
"""

from __future__ import annotations

from pathlib import Path

from lorarar.base.components import Components
from lorarar.lora import LoRA
from lorarar.training.dataset import Content, Style
from lorarar.training.dreambooth import OnStep, train_concepts
from lorarar.training.examples import Concept
from lorarar.training.settings import LoraSettings


def train_joint(
    components: Components,
    content: Content,
    style: Style,
    settings: LoraSettings,
    *,
    on_step: OnStep | None = None,
    state: Path | None = None,
) -> LoRA:
    """Train one LoRA of the settings' rank for both, to be used with `merged_prompt`. Errors as `train_lora`."""
    concepts = [Concept(content.images, content.prompt), Concept(style.images, style.prompt)]
    return train_concepts(components, concepts, settings, on_step=on_step, state=state)
