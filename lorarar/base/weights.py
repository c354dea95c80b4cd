"""The weights of a base's modules by full name, for what is defined by them and not by a LoRA alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from lorarar.base.names import CONFIGS
from lorarar.base.sources import open_pipeline
from lorarar.errors import InputError
from lorarar.lora.dialects import full_name
from lorarar.lora.layers import COMPONENTS


def base_weights(base: str) -> Callable[[str], np.ndarray | None]:
    """Return what gives a module's weight in float32 by its full name, or None for an unknown one.

    The base is opened when a weight is first asked for; InputError then when it can't be had.
    """

    @cache
    def modules() -> dict[str, Any]:
        if base in CONFIGS:
            raise InputError(
                f"a DoRA is made of its base's weights, and those of {base} are not part of this toolkit; make it "
                "plain with  lorarar convert LORA --rank R --base FOLDER-OR-HUB-ID -o OUT"
            )
        pipeline = open_pipeline(base, untrained=False, dtype=torch.float32)
        return {
            full: module
            for component in COMPONENTS
            for name, module in getattr(pipeline, component).named_modules()
            # transformers 5 has no `text_model.` in CLIPTextModel's names, which full names have.
            if getattr(module, "weight", None) is not None and (full := full_name(name, component))
        }

    def weight(module: str) -> np.ndarray | None:
        found = modules().get(module)
        return None if found is None else found.weight.detach().float().numpy()

    return weight
