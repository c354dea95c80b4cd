"""Sizes of a miniature that is trained for a few steps in a second."""

from __future__ import annotations

from lorarar.base.untrained import Sizes

SMALL = Sizes(latent=24, unet=(16, 32, 48), head=16, vae=(16, 16, 16), text=(32, 48), text_layers=2, time=8)
