"""A tiny base and dataset with small LoRAs, and what training needs of them, for tests of training on pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_pipeline import save_tiny_dataset
from tiny_world import random_lora

from lorarar.base.components import Components, load_components
from lorarar.base.names import unet_layout
from lorarar.layout import Layout
from lorarar.lora import write_lora
from lorarar.training.dataset import Dataset, read_dataset
from lorarar.training.pair_data import Parts, load_parts
from lorarar.training.trainer import TrainingInputs

ABOUT: dict[str, Any] = {"base": "tiny", "dataset": "tiny", "split": "paper"}


@dataclass(frozen=True)
class World:
    """A base on disk and in memory, a dataset with LoRA files, and the examples of its split `paper`."""

    base: Path
    components: Components
    layout: Layout
    dataset: Dataset
    parts: Parts

    def inputs(self) -> TrainingInputs:
        return TrainingInputs(self.components, self.layout, self.parts, ABOUT)


def make_world(base: Path, folder: Path) -> World:
    """Five contents and four styles of ranks 1 to 3, strong enough to change what the untrained UNet says."""
    components = load_components(str(base))
    layout = unet_layout(components.unet, "tiny")
    dataset = read_dataset(save_tiny_dataset(folder, contents=5, layout=layout))
    entries = [*dataset.contents.values(), *dataset.styles.values()]
    for number, entry in enumerate(entries):
        write_lora(random_lora(layout, (1 + number % 3,), number, 0.3, 0.3), entry.lora)
    return World(base, components, layout, dataset, load_parts(components, layout, dataset, "paper"))
