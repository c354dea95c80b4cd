"""Make models/miniature from nothing: its stages in order, each skipped once its result is there.

The stages' functions are imported when they run: `lorarar miniature --help` lists the stages, and needs no toolchain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from lorarar.training.launch import flush_denormals

if TYPE_CHECKING:
    from miniature.stages import BuildPlan

DEFAULT_WORK = Path("build/miniature")
OnMade = Callable[[str, Path, float], None]
"""Called with a stage, what it made, and the seconds that it took in all its runs."""

STAGES: Mapping[str, tuple[str, str]] = {
    "population": ("draw the captioned pictures that the base is trained on", "miniature.stages:draw_population"),
    "autoencoder": ("train the VAE", "miniature.stages:autoencoder"),
    "reading": ("train both text encoders to read captions", "miniature.stages:reading"),
    "base": ("train the UNet", "miniature.stages:base"),
    "longer": ("train the UNet further, in rounds", "miniature.stages:longer"),
    "pipeline": ("write the pipeline in half precision, and a grid of its samples", "miniature.stages:ship"),
    "judge": ("train the verifier that stands in for a language model", "miniature.stages:judge"),
    "references": ("draw the reference images of the held-out subjects and styles", "miniature.stages:references"),
    "loras": ("train a LoRA for each of them", "miniature.stages:loras"),
    "hypernet": ("train the hypernetwork", "miniature.stages:hypernet"),
    "card": ("write the model card", "miniature.card:write_card"),
    "publish": ("put all of it in place of the output folder", "miniature.stages:publish"),
}
"""Every stage by its name, in order: what it does, and the function that does it and returns where its result is."""


def build(plan: BuildPlan, names: Sequence[str], on_made: OnMade | None = None) -> None:
    """Run the named stages of STAGES.

    Raises InputError, before anything is made, when the work folder holds another plan's build.
    """
    from miniature.stages import claim_work  # imports torch

    claim_work(plan)
    flush_denormals()
    for name in names:
        made = resolve_name(STAGES[name][1])(plan)
        if on_made is not None:
            on_made(name, made, plan.spent(name) or 0.0)
