"""Name the compared methods, for the command line and the tables. No toolchain."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from lorarar.errors import InputError
from lorarar.evaluation.results import MethodInfo
from lorarar.settings import words

REFERENCE, RIVAL, OURS, ABLATION = "reference", "rival", "ours", "ablation"
ACFG, COMPOSED_START = "-acfg", "-composed-start"
SAMPLINGS = {
    ACFG: ("asymmetric guidance", "asymmetric guidance: no LoRA in the pass without the prompt (arXiv 2602.18936)"),
    COMPOSED_START: ("composed start", "the first steps composed, the others with the merge by asymmetric guidance"),
}
"""Ways to draw any merge, by what stands behind its name: what they are called, and what they do."""
STYLE = "-style-"
"""Between a merge's name and the strength of the style in it, as the scale of ΔW_s: `ties-style-0.6`."""
_NAME = re.compile(
    rf"(?P<own>.*?)(?:{STYLE}(?P<style>\d{{1,3}}(?:\.\d{{1,6}})?))?(?P<sampling>{'|'.join(SAMPLINGS)})?", re.DOTALL
)


@dataclass(frozen=True)
class MethodEntry:
    """A method's label in the tables, its kind, what it does, and what it needs."""

    label: str
    kind: str
    summary: str
    loras: bool = True  # needs the LoRA files; joint training does not
    unguided: bool = False  # keeps LoRAs out of guidance's unconditional pass
    guided: bool = False  # puts its LoRAs on guidance's two passes apart
    merged: bool = True  # makes one LoRA, that any sampling can have
    attached: bool = False  # its LoRAs are put beside linears, in each step, and have no other layers
    optimised: bool = False  # has coefficients without a checkpoint

    @property
    def needs_guidance(self) -> bool:
        """Tell whether it can't be drawn without guidance."""
        return self.unguided or self.guided

    @property
    def scaled(self) -> bool:
        """Tell whether it merges two LoRAs, each of which can have a strength."""
        return self.merged and self.loras and self.kind != REFERENCE

    @property
    def hypernet(self) -> bool:
        """Tell whether it needs a checkpoint."""
        return self.kind in (OURS, ABLATION)

    @property
    def coefficients(self) -> bool:
        """Tell whether it gives a coefficient to each column."""
        return self.hypernet or self.optimised


METHODS: dict[str, MethodEntry] = {
    "content-only": MethodEntry("Content LoRA alone", REFERENCE, "the content LoRA, without the style"),
    "style-only": MethodEntry("Style LoRA alone", REFERENCE, "the style LoRA, without the content"),
    "composed": MethodEntry(
        "Composed predictions",
        REFERENCE,
        "no merge: both LoRAs' own predictions at each step, 4 passes",
        unguided=True,
        merged=False,
        attached=True,
    ),
    "composite": MethodEntry(
        "LoRA Composite",
        RIVAL,
        "no merge: the mean of both LoRAs' answers, 4 passes",
        guided=True,
        merged=False,
        attached=True,
    ),
    "switch": MethodEntry(
        "LoRA Switch",
        RIVAL,
        "no merge: the two LoRAs take turns, a twentieth of the steps each",
        merged=False,
        attached=True,
    ),
    "joint": MethodEntry("Joint training", RIVAL, "one LoRA trained on both (minutes a pair)", loras=False),
    "direct": MethodEntry("Direct merge", RIVAL, "the average of the two LoRAs"),
    "direct-sum": MethodEntry("Direct merge, sum", RIVAL, "the sum of the two LoRAs"),
    "dare": MethodEntry("DARE", RIVAL, "density 0.5, uniform weights"),
    "ties": MethodEntry("TIES", RIVAL, "density 0.5, uniform weights"),
    "dare-ties": MethodEntry("DARE-TIES", RIVAL, "density 0.5, uniform weights"),
    "np-lora": MethodEntry("NP-LoRA", RIVAL, "the content gives way in the style's row space, μ = 0.5"),
    "knots-ties": MethodEntry("KnOTS-TIES", RIVAL, "TIES in a basis that both LoRAs share, density 0.5"),
    "norm-balance": MethodEntry("Norm balance", RIVAL, "the average of both LoRAs, brought to one norm"),
    "ssr": MethodEntry("SSR-Merge", RIVAL, "a router between the factors, by one UNet pass a LoRA under its prompt"),
    "ssr-text": MethodEntry("SSR-Merge, text alone", RIVAL, "the router in cross-attention's k/v, the others averaged"),
    "block-router": MethodEntry("Block router", RIVAL, "CRAFT-LoRA's blocks: the content in some, the style in others"),
    "schedule": MethodEntry(
        "Sum, content early",
        RIVAL,
        "the content up to 70 % of the steps, the style from 30 %",
        merged=False,
        attached=True,
    ),
    "craft": MethodEntry(
        "CRAFT-LoRA, untrained part",
        RIVAL,
        "block router, content early, the unconditional pass without LoRA",
        unguided=True,
        merged=False,
        attached=True,
    ),
    "k-lora": MethodEntry(
        "K-LoRA", RIVAL, "one of the two LoRAs a layer and step, by the largest entries", merged=False
    ),
    "k-lora-released": MethodEntry(
        "K-LoRA, released code", RIVAL, "with the authors' pattern s*, γ and count of calls", merged=False
    ),
    "ziplora": MethodEntry("ZipLoRA", RIVAL, "coefficients optimised for the pair (minutes a pair)", optimised=True),
    "learned": MethodEntry("LoRA.rar", OURS, "coefficients by the hypernetwork"),
    "learned-kv-average": MethodEntry("LoRA.rar, k/v averaged", ABLATION, "whatever the checkpoint's rule"),
    "learned-kv-sum": MethodEntry("LoRA.rar, k/v summed", ABLATION, "learned, with the sum for k and v"),
    "learned-mean": MethodEntry(
        "LoRA.rar, mean coefficients", ABLATION, "the mean of learned on the training pairs, by kind of layer"
    ),
}
_MERGES = tuple(name for name, entry in METHODS.items() if entry.merged)
LISTED = (
    f"{', '.join(METHODS)}; with {' or '.join(SAMPLINGS)}: {', '.join(_MERGES)}; "
    f"those that merge two LoRAs also with {STYLE}X before that"
)
DEFAULT_METHODS = ("joint", "direct", "dare", "ties", "dare-ties", "ziplora", "learned")
"""The rows of the paper's Table 1."""


class NameParts(NamedTuple):
    """The parts of a method's name: `ties-style-0.6-acfg` is ties, the style at 0.6, with -acfg."""

    own: str  # a key of METHODS, or the name of an ablation's checkpoint
    style: float | None  # the strength of the style, where the name has one
    sampling: str  # a key of SAMPLINGS, or nothing for the usual way and for no merge


def parts_of(name: str) -> NameParts:
    """Take a name apart, a method's or a checkpoint's."""
    found = _NAME.fullmatch(name)
    assert found is not None, name  # any text is a name
    style = found["style"]
    return NameParts(found["own"], None if style is None else float(style), found["sampling"] or "")


def sampling_of(name: str) -> str:
    """Return how a method draws its merge: a key of SAMPLINGS, or nothing for the usual way and for no merge."""
    return parts_of(name).sampling


def entry_of(name: str) -> MethodEntry | None:
    """Return what a name stands for: one of METHODS, as it is or with a strength or a sampling; None for no method.

    Such a name may be that of an ablation's checkpoint.
    """
    own, style, sampling = parts_of(name)
    entry = METHODS.get(own)
    if entry is None or (sampling and not entry.merged) or (style is not None and not entry.scaled):
        return None
    if style is not None:
        entry = replace(entry, label=f"{entry.label}, style at {style:g}")
    if sampling:
        label, composes = f"{entry.label}, {SAMPLINGS[sampling][0]}", sampling == COMPOSED_START
        entry = replace(entry, label=label, unguided=True, loras=entry.loras or composes)
    return entry


def is_attached(name: str) -> bool:
    """Tell whether a method, or an ablation, puts its LoRAs beside linears in each step."""
    entry = entry_of(name)
    return bool(sampling_of(name)) or (entry is not None and entry.attached)


def parse_methods(text: str) -> tuple[str, ...]:
    """Return the names in `direct,learned` in that order. Raises InputError for an unknown name or one given twice."""
    names = words(text)
    for name in names:
        if entry_of(name) is None:
            raise InputError(f"unknown method {name!r}; valid are {LISTED}")
        if [parts_of(other) for other in names].count(parts_of(name)) > 1:
            raise InputError(f"the method {name!r} is given twice; give it once")
    return names


def parse_hypernets(text: str) -> dict[str, str]:
    """Return the checkpoint paths by name of `q=a.safetensors,qo=b.safetensors`. Raises InputError."""
    found: dict[str, str] = {}
    for part in text.split(",") if text else ():
        name, sign, path = (piece.strip() for piece in part.partition("="))
        if not (sign and name and path):
            raise InputError(
                f"`hypernets`: {part!r} is not NAME=PATH; give for example  q=q.safetensors,qo=qo.safetensors"
            )
        if entry_of(name) or name in found:
            raise InputError(f"`hypernets`: the name {name!r} is taken; choose another")
        own, style, _ = parts_of(name)
        # Tables and pictures tell methods apart by their labels.
        taken = own in METHODS or own in {entry.label for entry in METHODS.values()}
        if not own or taken or sampling_of(own) or style is not None:
            raise InputError(
                f"`hypernets`: {name!r} names no checkpoint; give a name that no method has, without {STYLE}X, and "
                f"behind it at most one of {', '.join(SAMPLINGS)}, for example  q{ACFG}=q.safetensors"
            )
        found[name] = path
    return found


def method_info(name: str) -> MethodInfo:
    """Return a method's row of the tables; a checkpoint that is none of METHODS is an ablation under its own name."""
    if entry := entry_of(name):
        return MethodInfo(name, entry.label, entry.kind)
    sampling = sampling_of(name)
    label = f"{name.removesuffix(sampling)}, {SAMPLINGS[sampling][0]}" if sampling else name
    return MethodInfo(name, label, ABLATION)
