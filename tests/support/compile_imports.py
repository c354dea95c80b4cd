"""Import the toolchains, so that Python has compiled them before the tests' two processes both would."""

from __future__ import annotations

from export.targets import TARGETS
from lorarar.toolchains import quiet_toolchains

with quiet_toolchains():
    import diffusers

    diffusers.StableDiffusionXLPipeline  # noqa: B018  # loads what it is made of
    for target in TARGETS.values():
        target.load_converter()
