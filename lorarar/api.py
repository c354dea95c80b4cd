"""The public function `merge`, which joins bases, hypernetworks and merging methods. Imports torch when called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lorarar.base.names import DEFAULT_BASE, base_path, load_layout
from lorarar.console import OnProgress
from lorarar.errors import InputError
from lorarar.files import check_text
from lorarar.images import find_images
from lorarar.lora import LoRA, LoraSource, as_lora
from lorarar.merging import METHODS, Merged, MergeOptions, learned_options, merge_loras
from lorarar.merging.types import check_strengths
from lorarar.settings import check_choice
from lorarar.toolchains import require_torch

if TYPE_CHECKING:
    from lorarar.hypernet.checkpoints import LoadedPredictor
    from lorarar.hypernet.network import Hypernetwork
    from lorarar.layout import Layout
    from lorarar.training.examples import Reference
    from lorarar.training.hyper_settings import ZipSettings

StrPath = str | PathLike[str]
SSR = ("ssr", "ssr-text")
RUN_BASE = ("ziplora", *SSR)
"""The methods that run the base, on what the two LoRAs were trained on."""


class _Captioned(NamedTuple):
    """The images that a LoRA was trained on, and their prompt: a Reference that needs no torch."""

    images: tuple[Path, ...]
    prompt: str


@dataclass(frozen=True)
class MergeRequest:
    """The parameters of a merge, checked: whatever its method does not use is refused, not ignored."""

    base: str = DEFAULT_BASE
    method: str = "learned"
    hypernet: StrPath | Hypernetwork | None = None
    untrained: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)  # the fields of MergeOptions that were given
    examples: tuple[Reference, Reference] | None = None  # the content's and the style's, for ziplora and ssr
    settings: ZipSettings | None = None  # None: the defaults, in the device's fastest precision
    resolution: int | None = None  # pixels a side of the examples; None: the base's own

    def __post_init__(self) -> None:
        """Refuse parameters that contradict each other, by their names."""
        check_choice(METHODS, method=self.method)
        for name, value in self.options.items():
            if users := [method for method, entry in METHODS.items() if name in entry.uses]:
                refuse_unused(self.method, users, {name: value})
        MergeOptions(**self.options)
        refuse_unused(self.method, ["learned"], {"hypernet": self.hypernet})
        refuse_unused(self.method, ["learned", *RUN_BASE], {"untrained": self.untrained or None})
        refuse_unused(self.method, RUN_BASE, {"examples": self.examples})
        refuse_unused(self.method, ["ziplora"], {"settings": self.settings, "resolution": self.resolution})
        if self.method == "ziplora" and self.examples is None:
            raise InputError(
                "ziplora optimises on what the LoRAs were trained on: give `content_images`, `content_prompt`, "
                "`style_images` and `style_prompt`"
            )
        if self.method in SSR and self.examples is None:
            raise InputError(
                f"{self.method} looks at what each LoRA does under its own prompt: give `content_prompt` and "
                "`style_prompt`"
            )

    def run(self, content: LoRA, style: LoRA, on_progress: OnProgress | None = None) -> Merged:
        """Merge two LoRAs, and tell how each layer came about. Raises InputError as `merge`."""
        if METHODS[self.method].needs_torch or "rank_out" in self.options:
            require_torch()
        if self.method == "ziplora":
            return self._optimise(content, style, on_progress)
        if self.method in SSR:
            return self._route(content, style, on_progress)
        layout, loaded = self.open()
        if loaded is None:
            return merge_loras(content, style, layout, self.method, MergeOptions(**self.options), on_progress)
        options = learned_options(loaded.predictor, **self.options)
        merged = merge_loras(content, style, layout, self.method, options, on_progress)
        facts = {"hypernet": loaded.source, "hypernet_sha256": loaded.sha256}
        facts["hypernet_trained"] = str(loaded.trained).lower()
        return replace(merged, warnings=(*loaded.warnings, *merged.warnings)).with_facts(facts)

    def open(self) -> tuple[Layout, LoadedPredictor | None]:
        """Open the base's layout, and the hypernetwork where the method has one; InputError when they can't be had."""
        layout = load_layout(self.base)
        if self.method != "learned":
            return layout, None
        # Here, since it imports torch, which the other methods can do without.
        from lorarar.hypernet.checkpoints import open_predictor

        return layout, open_predictor(self.base, layout, self.hypernet, self.untrained)

    def _optimise(self, content: LoRA, style: LoRA, on_progress: OnProgress | None) -> Merged:
        """Merge by ZipLoRA, which runs the base on the examples."""
        # Here, since they import torch and diffusers, which the other methods can do without.
        from lorarar.merging.ziplora import ziplora
        from lorarar.training.hyper_settings import ZipSettings
        from lorarar.training.launch import BaseLoading, process_state, with_fastest_precision

        assert self.examples is not None
        process = process_state()
        if not isinstance(self.settings, ZipSettings | None):
            raise InputError(f"`settings` are {self.settings!r}; give ZipSettings, or leave them out")
        settings = self.settings or with_fastest_precision(ZipSettings(), process)
        loading = BaseLoading.of(self.base, process, settings.mixed_precision, self.resolution, self.untrained)
        merged = ziplora(
            loading.load(),
            content,
            style,
            *self.examples,
            replace(settings, seed=self.options.get("seed", settings.seed)),
            options=MergeOptions(**self.options),
            on_step=None if on_progress is None else lambda step, _: on_progress(step, settings.steps),
        )
        return self._on_base(merged)

    def _route(self, content: LoRA, style: LoRA, on_progress: OnProgress | None) -> Merged:
        """Merge by SSR-Merge, which runs the base, or its text encoders alone, on the two prompts."""
        # Here, since they import torch and diffusers, which the other methods can do without.
        from lorarar.merging.ssr_grams import merge_by_ssr
        from lorarar.training.launch import BaseLoading, process_state

        assert self.examples is not None
        loading = BaseLoading.of(self.base, process_state(), "no", untrained=self.untrained)
        merged = merge_by_ssr(
            loading.load(),
            content,
            style,
            (self.examples[0].prompt, self.examples[1].prompt),
            text_only=self.method == "ssr-text",
            options=MergeOptions(**self.options),
            on_pass=on_progress,
        )
        return self._on_base(merged)

    def _on_base(self, merged: Merged) -> Merged:
        """Tell of a merge that was made by a base of random weights."""
        if not self.untrained:
            return merged
        told = f"{self.base} has random weights: what {self.method} found on it means nothing"
        return replace(merged, warnings=(told, *merged.warnings)).with_facts({"base_trained": "false"})


def merge(
    content: LoraSource,
    style: LoraSource,
    *,
    base: StrPath = DEFAULT_BASE,
    method: str = "learned",
    hypernet: StrPath | Hypernetwork | None = None,
    untrained: bool = False,
    strengths: Sequence[float] = (1.0, 1.0),
    rule: str | None = None,
    density: float | None = None,
    seed: int | None = None,
    mu: float | None = None,
    rank_out: int | None = None,
    content_images: StrPath | Sequence[StrPath] | None = None,
    content_prompt: str | None = None,
    style_images: StrPath | Sequence[StrPath] | None = None,
    style_prompt: str | None = None,
    settings: ZipSettings | None = None,
    resolution: int | None = None,
    on_progress: OnProgress | None = None,
) -> LoRA:
    """Merge a content and a style LoRA into one, by any method of METHODS.

    The result is an ordinary LoRA; its `metadata` tells how it was made. A layer that only one LoRA has is carried
    exactly. Raises InputError for LoRAs that do not fit the base or each other, for a parameter that is out of its
    range or means nothing to the method, and for a result beyond float32.

    Args:
        content: The LoRA of what is drawn, such as a dog: of `read_lora`, or what that takes.
        style: The LoRA of how it is drawn, such as watercolour.
        base: The base that both were trained on: `miniature`, `koala-700m`, `koala-1b`, `sdxl`, or a folder in
            diffusers' format. Only its layout is read, but by `ziplora`, `ssr` and `ssr-text`, which run it.
        method: A key of METHODS. `learned` is LoRA.rar (arXiv 2412.05148).
        hypernet: `learned`: a Hypernetwork, or the file of one or of constant coefficients (`lorarar means`). The
            miniature's is shipped; other bases need one.
        untrained: `learned`, `ziplora`, `ssr`, `ssr-text`: use random weights in the place of a trained network, to
            try things out.
        strengths: Factors of the content's and the style's ΔW; 1 is the paper's.
        rule: `average` or `sum`. `direct`, `norm-balance`: how to merge; `learned`, `ssr`, `ssr-text`, `block-router`:
            how to merge the layers that they say nothing about (`learned` takes the hypernetwork's
            rule unless given).
        density: `dare`, `ties`, `dare-ties`, `knots-ties`: the share of entries that are kept, above 0 and up to 1.
        seed: `dare`, `dare-ties`: of the masks; `ziplora`: of the noise and timesteps.
        mu: `np-lora`: how far the content gives way to the style, 0 or more.
        rank_out: The largest rank of the layers that both have; without it r_c + r_s, at which all methods are exact
            but for `dare`, `ties` and `dare-ties`, whose result has full rank and is cut.
        content_images: `ziplora`: the image files, or folders of them, that the content was trained on.
        content_prompt: `ziplora`, `ssr`, `ssr-text`: the prompt that the content was trained on, such as `a sks dog`.
        style_images: `ziplora`: the same for the style.
        style_prompt: `ziplora`, `ssr`, `ssr-text`: the same for the style, such as `a house in watercolor style`.
        settings: `ziplora`: how to optimise (`lorarar.training.hyper_settings.ZipSettings`).
        resolution: `ziplora`: the side of the images in pixels; without it the base's own.
        on_progress: Called with (done, total): layers, for `ziplora` optimizer steps, for `ssr` passes of the UNet.
    """
    strengths = check_strengths(strengths, 2)
    given = {"rule": rule, "density": density, "seed": seed, "mu": mu, "rank_out": rank_out}
    given |= {"content_scale": strengths[0], "style_scale": strengths[1]}
    request = MergeRequest(
        base=base_path(base),
        method=method,
        hypernet=hypernet,
        untrained=untrained,
        options={name: value for name, value in given.items() if value is not None},
        examples=examples_of(method, content_images, content_prompt, style_images, style_prompt),
        settings=settings,
        resolution=resolution,
    )
    merged = request.run(as_lora(content), as_lora(style), on_progress)
    return replace(merged.lora, warnings=merged.warnings)


def examples_of(
    method: str,
    content_images: StrPath | Sequence[StrPath] | None,
    content_prompt: str | None,
    style_images: StrPath | Sequence[StrPath] | None,
    style_prompt: str | None,
) -> tuple[Reference, Reference] | None:
    """Find the images and prompts of both roles, for `ssr` the prompts alone; None when a part is not given.

    Raises InputError for a method that has no use for them, and for images that are not there.
    """
    refuse_unused(method, ["ziplora"], {"content_images": content_images, "style_images": style_images})
    refuse_unused(method, RUN_BASE, {"content_prompt": content_prompt, "style_prompt": style_prompt})
    if method in SSR:
        content_images, style_images = (), ()
    content = _reference("content", content_images, content_prompt)
    style = _reference("style", style_images, style_prompt)
    return None if content is None or style is None else (content, style)


def refuse_unused(method: str, users: Sequence[str], given: Mapping[str, Any]) -> None:
    """Refuse parameters (None: not given) that only other methods, the `users`, have a use for."""
    for name, value in given.items():
        if method not in users and value is not None:
            raise InputError(f"`{name}` means nothing to {method}; leave it out, or use it with {', '.join(users)}")


def _reference(role: str, images: StrPath | Sequence[StrPath] | None, prompt: str | None) -> Reference | None:
    if images is None or prompt is None:
        return None
    given: Any = [images] if isinstance(images, (str, PathLike)) else images
    paths = list(given) if isinstance(given, Iterable) and not isinstance(given, Mapping) else [given]
    if not all(isinstance(path, (str, PathLike)) for path in paths):
        raise InputError(f"`{role}_images` is {images!r}; give files, or folders of them")
    check_text(f"{role}_prompt", prompt)
    return _Captioned(find_images([Path(path) for path in paths]), prompt)
