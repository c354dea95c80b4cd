"""Give `learned` a PyTorch predictor as it wants one: numpy in, numpy out. Imports torch when called."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from lorarar.merging.types import MergeOptions, Predict


def predict_with(hypernet: Any) -> Predict:
    """Return a function that predicts coefficients by a `lorarar.hypernet.network.Hypernetwork`, without gradients.

    The argument is untyped because naming its class would import torch.
    """
    import torch

    def predict(
        content_down: Float[np.ndarray, "n content_rank inp"],
        content_up: Float[np.ndarray, "n out content_rank"],
        style_down: Float[np.ndarray, "n style_rank inp"],
        style_up: Float[np.ndarray, "n out style_rank"],
    ) -> Float[np.ndarray, "n 2 inp"]:
        factors = (torch.from_numpy(array) for array in (content_down, content_up, style_down, style_up))
        with torch.inference_mode():
            return hypernet(*factors).numpy()

    return predict


def learned_options(predictor: Any, **changes: Any) -> MergeOptions:
    """Return the options to merge as a Hypernetwork or ConstantCoefficients was trained.

    They hold its coefficients, the kinds of layers that have them, and its k/v rule. `changes` are other fields of
    MergeOptions, and win.
    """
    from lorarar.hypernet.constant import ConstantCoefficients  # imports torch, which merging without it must not

    fields: dict[str, Any] = {"learned": predictor.config.learned, "rule": predictor.config.kv_rule}
    if isinstance(predictor, ConstantCoefficients):
        fields["constants"] = predictor.constants()
    else:
        fields["predict"] = predict_with(predictor)
    return MergeOptions(**fields | changes)
