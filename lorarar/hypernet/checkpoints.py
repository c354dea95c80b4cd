"""Load and save what predicts coefficients: a hypernetwork or, as an ablation, constant coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorarar.base.names import choose_checkpoint
from lorarar.errors import InputError
from lorarar.hypernet.network import ConstantCoefficients, ConstantConfig, HypernetConfig, Hypernetwork
from lorarar.hypernet.storage import CONSTANT, HYPERNETWORK, Provenance, read_checkpoint, write_checkpoint
from lorarar.layout import Layout, kind_of

Predictor = Hypernetwork | ConstantCoefficients
"""What a checkpoint holds."""


@dataclass(frozen=True, kw_only=True)
class LoadedPredictor(Provenance):
    """A predictor of coefficients, and where it came from."""

    predictor: Predictor


def save_hypernet(hypernet: Predictor, path: Path, training: Mapping[str, Any] | None = None) -> None:
    """Write weights, config and the training's options as one safetensors file."""
    kind = HYPERNETWORK if isinstance(hypernet, Hypernetwork) else CONSTANT
    made = Provenance(path.name, "", trained=True, training=training or {})
    config = hypernet.config.to_json() if isinstance(hypernet, Hypernetwork) else asdict(hypernet.config)
    write_checkpoint(path, kind, hypernet.state_dict(), config, made)


def load_predictor(path: Path) -> LoadedPredictor:
    """Read a checkpoint; InputError as `read_checkpoint`, and for wrong shapes and numbers that are not finite."""
    checkpoint = read_checkpoint(path)
    if checkpoint.kind == HYPERNETWORK:
        return _loaded(Hypernetwork.from_checkpoint(checkpoint))
    config = checkpoint.parse_config(ConstantConfig.from_json)
    constants = checkpoint.fill(lambda: ConstantCoefficients(config))
    return LoadedPredictor(predictor=constants, **vars(checkpoint.provenance))


def open_predictor(
    base: str,
    layout: Layout,
    given: Path | Hypernetwork | None = None,
    untrained: bool = False,
    trial: bool = True,
) -> LoadedPredictor:
    """Find what predicts coefficients for a base: the one given, random weights, or the one that is shipped.

    `base` is the base's name as the user gave it, `layout` its layout. An `untrained` hypernetwork has the input layers
    that the layout needs. With neither, the miniature gets the hypernetwork that is shipped with it; for another base
    that is an error, which advises `untrained` where it is a `trial` that the caller can make. Raises InputError when
    both or, for another base, none are given, for one that was made for another layout, and as `load_predictor`.
    """
    if given is not None and untrained:
        raise InputError("`hypernet` and `untrained` exclude each other; give one of them")
    if untrained:
        widths = tuple(sorted({group.out_features for group in layout.part("qo")}))
        given = Hypernetwork.untrained(HypernetConfig(widths=widths)).eval()
    instead = ", or `untrained` to try it out with random weights" if trial else ""
    loaded = (
        _loaded(given) if isinstance(given, Hypernetwork) else load_predictor(choose_checkpoint(base, given, instead))
    )
    check_fits(loaded.predictor, layout)
    return loaded


def check_fits(predictor: Predictor, layout: Layout) -> None:
    """Refuse a predictor that does not know the layers of a layout: it was trained for another base."""
    for group in layout.with_kinds(predictor.config.learned):
        modules = [name for name in group.modules if kind_of(name) in predictor.config.learned]
        if isinstance(predictor, Hypernetwork):
            predictor.bias(group.out_features, modules)
        if len(predictor.columns):
            predictor.columns(group.in_features, modules)


def _loaded(network: Hypernetwork) -> LoadedPredictor:
    return LoadedPredictor(predictor=network, **vars(network.made()))
