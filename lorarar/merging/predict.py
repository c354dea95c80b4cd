"""The PyTorch hypernetwork as `learned` wants it: numpy in, numpy out. Imports torch when called."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from lorarar.merging.types import Predict


def predict_with(hypernet: Any) -> Predict:
    """Coefficients by a `lorarar.hypernet.Hypernetwork`, without gradients.

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
