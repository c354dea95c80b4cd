"""Load and save what predicts coefficients: a hypernetwork or, as an ablation, constant coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

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
    given: str | PathLike[str] | Hypernetwork | None = None,
    untrained: bool = False,
    trial: bool = True,
) -> LoadedPredictor:
    """Find what predicts coefficients for a base, by `find_predictor`, and fit it to the base's layout."""
    return fit_predictor(find_predictor(base, given, untrained, trial), layout)


def find_predictor(
    base: str,
    given: str | PathLike[str] | Hypernetwork | None = None,
    untrained: bool = False,
    trial: bool = True,
) -> LoadedPredictor | None:
    """Return the predictor of coefficients that was given or, for the miniature, the shipped one; None for `untrained`.

    `base` is the base's name as the user gave it; the base itself need not be there yet. For another base one has to be
    given; the error advises `untrained` where it is a `trial` that the caller can make. Raises InputError when both or,
    for another base, none are given, for what is neither a file nor a network, and as `load_predictor`.
    """
    if given is not None and untrained:
        raise InputError("`hypernet` and `untrained` exclude each other; give one of them")
    if untrained:
        return None
    instead = ", or `untrained` to try it out with random weights" if trial else ""
    if isinstance(given, Hypernetwork):
        return _loaded(given)
    if given is not None and not isinstance(given, str | PathLike):
        told = type(given).__name__ if isinstance(given, nn.Module) else repr(given)
        raise InputError(f"`hypernet` is {told}; give the file of one, or a loaded Hypernetwork")
    return load_predictor(choose_checkpoint(base, None if given is None else Path(given), instead))


def fit_predictor(found: LoadedPredictor | None, layout: Layout) -> LoadedPredictor:
    """Return a found predictor, or for None random weights with the input layers that the layout needs.

    Raises InputError for one that was made for another layout.
    """
    if found is None:
        widths = tuple(sorted({group.out_features for group in layout.part("qo")}))
        found = _loaded(Hypernetwork.untrained(HypernetConfig(widths=widths)).eval())
    check_fits(found.predictor, layout)
    return found


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
