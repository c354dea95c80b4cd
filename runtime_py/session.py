"""Sessions: LoRAs loaded into a bundle, merged and drawn with, as an app does it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lorarar.errors import InputError
from lorarar.layout import Adapter
from lorarar.lora import LoRA, LoraLayer, read_lora
from lorarar.merging import Merged, MergeOptions, merge_loras
from runtime_py.backends import Runners
from runtime_py.merge import bundle_options, merge_with_bundle
from runtime_py.pipeline import Drawn, OnStep, Pipeline, Request
from runtime_py.stages import OnStage

if TYPE_CHECKING:
    from PIL.Image import Image

    from runtime_py.bundle import Bundle

KEEP_BYTES = 2**30
"""The largest bundle whose components stay loaded by default. The miniature has 50 MB, KOALA-700M in fp16 2.8 GB."""
MERGES = ("learned", "direct")
"""The methods of `Session.merge`: the bundle's merger, and the plain average."""


class Session:
    """A bundle at work.

    `threads` None leaves their number to the runtime. With `keep`, every component that was run stays loaded, and the
    next image or merge starts at once; without, each is freed after its use and only the UNet stays for a whole image,
    as a phone must do with a large bundle. None keeps the components of bundles up to KEEP_BYTES. Tokenizers always
    stay.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None, keep: bool | None = None) -> None:
        self.bundle = bundle
        self.notes: tuple[str, ...] = ()
        """What the last merge and the last image had to leave out, one sentence each."""
        self._runners = Runners(bundle, threads, bundle.nbytes <= KEEP_BYTES if keep is None else keep)
        self._loras: tuple[LoRA, ...] = ()
        self._merged: LoRA | None = None
        self._adapter: Adapter | None = None
        self._merge_notes: tuple[str, ...] = ()
        self._how = "the base"

    @cached_property
    def pipeline(self) -> Pipeline:
        """What draws. Raises InputError for a bundle that holds no whole pipeline."""
        return Pipeline(self.bundle, self._runners)

    def load(self, loras: Sequence[LoRA | str | Path]) -> None:
        """Choose the LoRAs: a content and a style, one alone, or none, in the place of those chosen before.

        Each is a LoRA, or the path of a file or a PEFT folder. Raises InputError for more than two, and for one that
        can't be read.
        """
        if isinstance(loras, (str, Path)) or len(loras) > 2:
            raise InputError("`loras` are a list of a content and a style LoRA, of one LoRA alone, or of none")
        self._loras = tuple(lora if isinstance(lora, LoRA) else read_lora(lora) for lora in loras)
        self._set(None, (), f"{len(loras)} LoRAs, not merged yet" if loras else "the base")

    def merge(self, method: str = "learned", *, strengths: Sequence[float] | None = None) -> None:
        """Merge the loaded LoRAs; what is drawn from now on has them.

        `learned` runs the bundle's merger, `direct` averages. `strengths` multiply each LoRA's share, 1 is the paper's;
        one LoRA alone is only multiplied. Raises InputError when none is loaded, for LoRAs that do not fit the base or
        each other, and for a result that is not finite.
        """
        if method not in MERGES:
            raise InputError(f"`method` is {method!r}; a session has {' and '.join(MERGES)}")
        if not self._loras:
            raise InputError("no LoRA is loaded; call load([content, style]) first")
        given = tuple(strengths) if strengths is not None else (1.0,) * len(self._loras)
        if len(given) != len(self._loras) or not all(math.isfinite(strength) for strength in given):
            raise InputError(f"`strengths` are {given}; give {len(self._loras)} finite numbers, one for each LoRA")
        names = " and ".join(Path(lora.source).name for lora in self._loras)
        how = f"{method} merge of {names}, strengths {', '.join(f'{strength:g}' for strength in given)}"
        if len(self._loras) == 1:
            (lora,) = self._loras
            self._set(_scaled(lora, given[0]), lora.warnings, f"{names}, strength {given[0]:g}")
        else:
            merged = self._merge_pair(method, given)
            self._set(merged.lora, merged.warnings, how)

    def merged_lora(self) -> LoRA:
        """Return the merged LoRA whole: also the layers that the UNet's adapter leaves out.

        Loaded LoRAs that were not merged yet are merged with `merge`'s defaults. Raises InputError as `merge`.
        """
        if self._merged is None:
            self.merge()
        assert self._merged is not None
        return self._merged

    def generate(
        self,
        prompt: str,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str | None = None,
        on_step: OnStep = lambda *_: None,
    ) -> Image:
        """Draw an image: the base where no LoRA is loaded, else the base with the LoRAs.

        LoRAs that were loaded and not merged yet are merged with `merge`'s defaults. `steps`, `guidance` and the
        `negative` prompt are the bundle's own where they are None. `on_step(done, steps, latents)` is called after each
        step, for progress and previews. The same seed gives the same image on every target, up to its precision.
        Raises InputError for a number out of its range, and for a bundle that can't draw.
        """
        from PIL import Image

        request = self.pipeline.request(prompt, seed=seed, steps=steps, guidance=guidance, negative=negative)
        drawn = self.draw(request, on_step=on_step)
        return Image.fromarray(drawn.image)

    def draw(self, request: Request, on_step: OnStep = lambda *_: None, on_stage: OnStage = lambda *_: None) -> Drawn:
        """Draw a request of `pipeline.request` as `generate` does; the result also tells where the time went."""
        if self._loras and self._merged is None:
            on_stage("merging", 0, 1)
            self.merge()
        if self._adapter is None:
            self._adapter = self.pipeline.adapter(self._merged)
        drawn = self.pipeline.draw(request, self._adapter, on_stage, on_step)
        self.notes = (*self._merge_notes, *drawn.notes)
        return drawn

    def _merge_pair(self, method: str, strengths: tuple[float, ...]) -> Merged:
        content, style = self._loras
        if method == "direct":
            options = MergeOptions(content_scale=strengths[0], style_scale=strengths[1])
            return merge_loras(content, style, self.bundle.layout, method, options)
        options = bundle_options(self.bundle, (strengths[0], strengths[1]))
        return merge_with_bundle(self.bundle, self._runners("merger"), content, style, options)

    def _set(self, merged: LoRA | None, notes: tuple[str, ...], how: str) -> None:
        """Change what is drawn from now on, and what tells of it."""
        self._merged, self._adapter, self._how = merged, None, how
        self._merge_notes = self.notes = notes

    def __repr__(self) -> str:
        loaded = f"; {', '.join(self._runners.loaded)} loaded" if self._runners.loaded else ""
        return f"Session({str(self.bundle.path)!r}: {self._how}{loaded})"


def _scaled(lora: LoRA, strength: float) -> LoRA:
    if strength == 1:
        return lora
    layers = {name: LoraLayer(layer.down * np.float32(strength), layer.up) for name, layer in lora.layers.items()}
    return replace(lora, layers=layers)
