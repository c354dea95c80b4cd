"""Bundles that tests share, each exported when a test first asks for it: of the shallow base and of the miniature."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from made_once import MadeOnce
from tiny_world import soc_of

from export import hypernet, pipeline, unet
from export.source import chosen_hypernet
from lorarar.base.names import load_layout
from runtime_py.bundle import Bundle

RANK = 3  # of each of the two LoRAs
MiniatureBundle = Callable[[str, str, str], Path]
"""Gives the miniature's bundle of a hypernet, a unet or a pipeline, for a target, in a precision."""


class SharedPipelines(dict[str, Bundle]):
    """Bundles by target, in its default precision; after `target+text` the text encoders take LoRAs too."""

    def __init__(self, base: Path, made_once: MadeOnce) -> None:
        super().__init__()
        self.base, self.made_once = base, made_once

    def __missing__(self, name: str) -> Bundle:
        target, _, text = name.partition("+")
        hypernet = self.made_once("pipeline-hypernet", self._save_hypernet) / "hypernet.safetensors"
        given = {"hypernet": hypernet, "rank": RANK, "steps": 4, "guidance": 3.5, "text_adapters": bool(text)}
        given |= {"soc": soc_of(target)}
        made = self.made_once(f"pipeline/{name}", lambda out: pipeline(self.base, target=target, out=out, **given))
        self[name] = Bundle.open(made)
        return self[name]

    def _save_hypernet(self, folder: Path) -> None:
        folder.mkdir()
        save_hypernet_of(self.base, folder / "hypernet.safetensors")


class SharedUNets(dict[tuple[str, str], Bundle]):
    """Bundles by target and precision."""

    def __init__(self, base: Path, made_once: MadeOnce) -> None:
        super().__init__()
        self.base, self.made_once = base, made_once

    def __missing__(self, key: tuple[str, str]) -> Bundle:
        target, precision = key

        def export(out: Path) -> None:
            unet(self.base, target=target, precision=precision, rank=RANK, soc=soc_of(target), out=out)

        self[key] = Bundle.open(self.made_once(f"unet/{target}-{precision}", export))
        return self[key]


def save_hypernet_of(base: Path, path: Path) -> None:
    """Write an untrained hypernetwork for a base."""
    loaded = chosen_hypernet(str(base), load_layout(str(base)), None, untrained=True)
    loaded.predictor.save_pretrained(path)


def miniature_bundle_of(made_once: MadeOnce) -> MiniatureBundle:
    """Return what gives the miniature's bundles; a pipeline's apps start with 4 steps."""
    kinds: dict[str, Callable[..., Any]] = {"hypernet": hypernet, "unet": unet, "pipeline": partial(pipeline, steps=4)}

    def give(kind: str, target: str, precision: str) -> Path:
        def make(out: Path) -> None:
            kinds[kind](target=target, precision=precision, soc=soc_of(target), out=out)

        return made_once(f"miniature/{kind}-{target}-{precision}", make)

    return give
