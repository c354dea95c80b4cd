"""Bundles that tests share, each exported when a test first asks for it: of the shallow base and of the miniature."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from made_once import MadeOnce
from tiny_world import BUNDLE_RANK, soc_of, tiny_hypernet, tiny_layout

from export import hypernet, pipeline, unet
from export.options import HypernetOptions
from export.write import write_hypernet
from lorarar.base.names import load_layout
from lorarar.hypernet.checkpoints import open_predictor
from runtime_py.bundle import Bundle

RANK = 3  # of each of the two LoRAs
MiniatureBundle = Callable[[str, str, str], Path]
"""Gives the miniature's bundle of a hypernet, a unet or a pipeline, for a target, in a precision."""


def require_target(target: str) -> None:
    """Skip a test where a target's runtime is not installed, and say so; CI has all of them."""
    missing = [name for name in import_module(f"runtime_py.backends.{target}").BACKEND.packages if not find_spec(name)]
    if missing:
        skip = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        skip(f"{target} is not installed here: {missing[0]} is missing")


class BundleFolders(dict[tuple[str, str], Path]):
    """Folders of the tiny hypernetwork's bundles, by target and precision."""

    def __init__(self, made_once: MadeOnce) -> None:
        super().__init__()
        self.made_once = made_once

    def __missing__(self, key: tuple[str, str]) -> Path:
        target, precision = key
        require_target(target)
        options = HypernetOptions(target, precision, BUNDLE_RANK, soc=soc_of(target))

        def export(out: Path) -> None:
            write_hypernet(tiny_hypernet(), tiny_layout(), options, out)

        self[key] = self.made_once(f"hypernet/{target}-{precision}", export)
        return self[key]


class SharedPipelines(dict[str, Bundle]):
    """Bundles by target, in its default precision; after `target+text` the text encoders take LoRAs too."""

    def __init__(self, base: Path, made_once: MadeOnce) -> None:
        super().__init__()
        self.base, self.made_once = base, made_once

    def __missing__(self, name: str) -> Bundle:
        target, _, text = name.partition("+")
        require_target(target)
        hypernet = self.made_once("pipeline-hypernet", self._save_hypernet) / "hypernet.safetensors"
        given = {
            "hypernet": hypernet,
            "rank": RANK,
            "steps": 4,
            "guidance": 3.5,
            "guidance_rescale": 0.6,
            "text_adapters": bool(text),
        }
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
        require_target(target)

        def export(out: Path) -> None:
            unet(self.base, target=target, precision=precision, rank=RANK, soc=soc_of(target), out=out)

        self[key] = Bundle.open(self.made_once(f"unet/{target}-{precision}", export))
        return self[key]


def save_hypernet_of(base: Path, path: Path) -> None:
    """Write an untrained hypernetwork for a base."""
    loaded = open_predictor(str(base), load_layout(str(base)), untrained=True)
    loaded.predictor.save_pretrained(path)


def miniature_bundle_of(made_once: MadeOnce) -> MiniatureBundle:
    """Return what gives the miniature's bundles; a pipeline's apps start with 4 steps."""
    kinds: dict[str, Callable[..., Any]] = {"hypernet": hypernet, "unet": unet, "pipeline": partial(pipeline, steps=4)}

    def give(kind: str, target: str, precision: str) -> Path:
        require_target(target)

        def make(out: Path) -> None:
            kinds[kind](target=target, precision=precision, soc=soc_of(target), out=out)

        return made_once(f"miniature/{kind}-{target}-{precision}", make)

    return give
