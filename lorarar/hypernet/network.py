"""The hypernetwork of LoRA.rar (paper §3.3): two LoRAs of a layer in, a pair of coefficients a column out.

Tensors in, tensors out: nothing here knows a device or a pipeline.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorarar.errors import InputError
from lorarar.files import check_checkpoint_name
from lorarar.hypernet.columns import MAX_WIDTHS, ColumnOffsets, Columns, parse_columns
from lorarar.hypernet.storage import (
    HYPERNETWORK,
    Checkpoint,
    Provenance,
    network_digest,
    read_checkpoint,
    write_checkpoint,
)
from lorarar.layout import PAPER_LEARNED, check_kinds, kind_of
from lorarar.merging.types import RULES
from lorarar.settings import check_choice

# Layers are taken a few at a time, so that the hidden activations (n, hidden, in) stay in the cores' cache. SDXL at
# rank 64 on 2 cores: 188 ms with 6 layers of width 1280, 190 with 12, 226 with 1, 373 with all 240.
_HIDDEN_FLOATS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class HypernetConfig:
    """The shape and the rules of a hypernetwork, which are saved beside its weights."""

    widths: tuple[int, ...] = (640, 1280)  # one input layer for each output width of the learned linears
    hidden: int = 128  # units of the shared hidden layer
    kv_rule: str = "average"  # a key of RULES; every attention linear that is not learned follows it
    learned: tuple[str, ...] = PAPER_LEARNED  # kinds of attention linears, in the order of lorarar.layout.KINDS
    positions: tuple[str, ...] = ()  # modules with a bias of their own in the hidden layer (not in the paper)
    columns: Columns = ()  # whose coefficients have offsets of their own (not in the paper)

    def __post_init__(self) -> None:
        object.__setattr__(self, "learned", check_kinds(self.learned))
        check_choice(RULES, kv_rule=self.kv_rule)
        if len(set(self.positions)) < len(self.positions):
            raise InputError("a hypernetwork has one position for each module, and some are named twice")
        if len(self.widths) > MAX_WIDTHS:
            raise InputError(f"a hypernetwork has at most {MAX_WIDTHS} widths, not {len(self.widths):,}")
        if not self.widths or min(self.widths) < 1 or self.hidden < 1:
            raise InputError(f"a hypernetwork needs positive widths and hidden size, not {self.widths}, {self.hidden}")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> HypernetConfig:
        """Make the config that a checkpoint's metadata states; KeyError, ValueError or TypeError when it is none."""
        widths = tuple(int(width) for width in data["widths"])
        # Checkpoints from before the choice existed are the paper's.
        learned = tuple(map(str, data.get("learned", PAPER_LEARNED)))
        positions = tuple(map(str, data.get("positions", ())))
        return cls(widths, int(data["hidden"]), str(data["kv_rule"]), learned, positions, parse_columns(data))

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads; positions and columns only where there are some, as in older checkpoints."""
        return {name: value for name, value in asdict(self).items() if name not in ("positions", "columns") or value}


class Hypernetwork(nn.Module):
    """The network: `Linear(2·width → hidden)` chosen by the layer's output width, ReLU, one `Linear(hidden → 2)`.

    It is made for LoRAs of one base, whose learned linears have the output widths of `config.widths`. With
    `config.positions` the network also knows which layer it looks at: each has a bias of its own in the hidden layer,
    which costs nothing at run time, and `modules` must name the layers. With `config.columns` it knows each column as
    well: an offset of its own is added to the coefficients.
    """

    provenance: Provenance | None = None
    """Where the weights came from; None for a network that was made here and maybe trained."""
    _as_made: str = ""  # digest of the weights that `provenance` is of

    def __init__(self, config: HypernetConfig | None = None) -> None:
        super().__init__()
        self.config = config or HypernetConfig()
        self.inputs = nn.ModuleDict({str(w): nn.Linear(2 * w, self.config.hidden) for w in self.config.widths})
        self.output = nn.Linear(self.config.hidden, 2)
        if self.config.positions:
            self.positions = nn.Parameter(torch.zeros(len(self.config.positions), self.config.hidden))
        self._rows = {module: row for row, module in enumerate(self.config.positions)}
        self.columns = ColumnOffsets(self.config.columns)
        # Training starts near the plain average; a start near 0 would begin by erasing both LoRAs.
        nn.init.constant_(self.output.bias, 0.5)

    @classmethod
    def untrained(cls, config: HypernetConfig | None = None, seed: int = 0) -> Hypernetwork:
        """Make one of seeded random weights; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = cls(config)
        made._as_made = made._digest()
        made.provenance = Provenance(f"untrained, seed {seed}", made._as_made, trained=False)
        return made

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Hypernetwork:
        """Load a hypernetwork: a .safetensors file of `save_pretrained` or `lorarar train`, or the authors' checkpoint.

        The authors' is a torch file, opened without running code. The network is on the CPU, in fp32 and eval mode.
        Raises InputError for a file that is neither, is too large, holds other shapes than its config says or numbers
        that are not finite, or holds constant coefficients.
        """
        checkpoint = read_checkpoint(Path(path))
        if checkpoint.kind != HYPERNETWORK:
            raise InputError(f"{path}: it holds constant coefficients, which lorarar merge takes; give a network")
        return cls.from_checkpoint(checkpoint)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Hypernetwork:
        """Make the network that a checkpoint holds; InputError as `from_pretrained`."""
        config = checkpoint.parse_config(HypernetConfig.from_json)
        made = checkpoint.fill(lambda: cls(config))
        made.provenance, made._as_made = checkpoint.provenance, made._digest()
        return made

    def made(self) -> Provenance:
        """Return where the network comes from: `provenance`, or memory where weights or config have changed since.

        Raises InputError for weights that are not finite.
        """
        weights = self.state_dict()
        strange = next((name for name, tensor in weights.items() if not torch.isfinite(tensor).all()), None)
        if strange is not None:
            raise InputError(f"the hypernetwork's {strange} holds NaN or infinity; train it again with a lower rate")
        digest = self._digest()
        if self.provenance is not None and digest == self._as_made:
            return self.provenance
        return Provenance("memory", digest, trained=True)

    def _digest(self) -> str:
        return network_digest(self.state_dict(), self.config.to_json())

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write weights (fp32), config and provenance as one .safetensors file, whole or not at all.

        Saving what was loaded from such a file gives the same bytes. Raises InputError for another suffix, and for
        weights that are not finite.
        """
        target = Path(path)
        check_checkpoint_name(target)
        write_checkpoint(target, HYPERNETWORK, self.state_dict(), self.config.to_json(), self.made())

    def __repr__(self) -> str:
        config = self.config
        widths, learned = ", ".join(map(str, config.widths)), ",".join(config.learned)
        where = self.provenance.source if self.provenance else "memory"
        return (
            f"Hypernetwork({where}: widths {widths}, hidden {config.hidden}, {learned} learned, rule {config.kv_rule})"
        )

    def input_layer(self, width: int) -> nn.Linear:
        """Return the input layer for linears with `width` outputs; InputError when there is none."""
        if str(width) not in self.inputs:
            known = ", ".join(map(str, self.config.widths))
            raise InputError(
                f"the hypernetwork has no input layer for width {width}, only for {known}; give one that was trained "
                "for this base"
            )
        layer = self.inputs[str(width)]
        assert isinstance(layer, nn.Linear)
        return layer

    def bias(self, width: int, modules: Sequence[str] = ()) -> Float[Tensor, "_ hidden 1"]:
        """Return the hidden layer's bias for linears of a width: one for all or, with positions, one for each module.

        Raises InputError where the network has positions and none for a module.
        """
        shared = self.input_layer(width).bias[None, :, None]
        if not self._rows:
            return shared
        strangers = [module for module in modules if module not in self._rows]
        if strangers or not modules:
            raise InputError(
                f"the hypernetwork knows {len(self._rows)} layers by their places, and not "
                f"{strangers[0] if strangers else 'those without a name'}; give one that was trained for this base"
            )
        return shared + self.positions[[self._rows[module] for module in modules]][:, :, None]

    def forward(
        self,
        content_down: Float[Tensor, "n content_rank inp"],
        content_up: Float[Tensor, "n out content_rank"],
        style_down: Float[Tensor, "n style_rank inp"],
        style_up: Float[Tensor, "n out style_rank"],
        modules: Sequence[str] = (),
    ) -> Float[Tensor, "n 2 inp"]:
        """Predict the coefficients (m_c, m_s) of n layers from their factors, without ΔW: W·(up down) = (W up) down."""
        bias = self.bias(content_up.shape[1], modules).expand(len(content_up), -1, -1)
        factors = (content_down, content_up, style_down, style_up, bias)
        step = self._at_once(content_down.shape[2])
        parts = zip(*(tensor.split(step) for tensor in factors), strict=True)
        found = [self._few(*few) for few in parts]
        return self._with_offsets(found[0] if len(found) == 1 else torch.cat(found), modules)

    def _few(
        self, content_down: Tensor, content_up: Tensor, style_down: Tensor, style_up: Tensor, bias: Tensor
    ) -> Float[Tensor, "n 2 inp"]:
        hidden = torch.baddbmm(bias, self.project(content_up, "content"), content_down)
        # In place: 160 ms on SDXL at rank 64, against 188 with a second hidden tensor.
        # Autograd needs neither value that is overwritten.
        return self._coefficients(hidden.baddbmm_(self.project(style_up, "style"), style_down))

    def dense(
        self, content: Float[Tensor, "n out inp"], style: Float[Tensor, "n out inp"], modules: Sequence[str] = ()
    ) -> Float[Tensor, "n 2 inp"]:
        """Predict as the paper does, on ΔW itself: each column of [ΔW_c; ΔW_s] is an input row. It is the reference."""
        rows = torch.cat([content, style], dim=1).transpose(1, 2)  # (n, in, 2·out)
        width = content.shape[1]
        hidden = torch.matmul(rows, self.input_layer(width).weight.T) + self.bias(width, modules).mT
        return self._with_offsets(self.output(torch.relu(hidden)).transpose(1, 2), modules)

    def project(self, up: Float[Tensor, "n out rank"], role: str) -> Float[Tensor, "n hidden rank"]:
        """Apply one role's half of the input layer to `up`, which does not depend on the other LoRA."""
        return torch.matmul(self._half(up.shape[1], role), up)

    def prepare(
        self, down: Float[Tensor, "n rank inp"], up: Float[Tensor, "n out rank"], role: str, modules: Sequence[str] = ()
    ) -> Float[Tensor, "n hidden inp"]:
        """Compute one LoRA's whole contribution to the hidden layer, once, when it is installed.

        The bias goes with the content role, so that content + style is the full pre-activation.
        """
        projected = self.project(up, role)
        if role == "style":
            return torch.bmm(projected, down)
        return torch.baddbmm(self.bias(up.shape[1], modules), projected, down)

    def combine(
        self,
        content: Float[Tensor, "n hidden inp"],
        style: Float[Tensor, "n hidden inp"],
        modules: Sequence[str] = (),
    ) -> Float[Tensor, "n 2 inp"]:
        """Predict the coefficients of any pair of prepared LoRAs: an addition, the ReLU and the last layer."""
        step = self._at_once(content.shape[2])
        pairs = zip(content.split(step), style.split(step), strict=True)
        return self._with_offsets(torch.cat([self._coefficients(c + s) for c, s in pairs]), modules)

    def _with_offsets(self, pairs: Float[Tensor, "n 2 inp"], modules: Sequence[str]) -> Float[Tensor, "n 2 inp"]:
        return pairs + self.columns(pairs.shape[2], modules) if len(self.columns) else pairs

    def _coefficients(self, hidden: Float[Tensor, "n hidden inp"]) -> Float[Tensor, "n 2 inp"]:
        # One baddbmm: matmul with a broadcast weight takes 2.5× as long on SDXL's prepared LoRAs (40 ms against 14).
        weight = self.output.weight.expand(len(hidden), -1, -1)
        return torch.baddbmm(self.output.bias[:, None], weight, hidden.relu_())

    def _half(self, width: int, role: str) -> Float[Tensor, "hidden out"]:
        weight = self.input_layer(width).weight
        return weight[:, :width] if role == "content" else weight[:, width:]

    def _at_once(self, inp: int) -> int:
        return max(1, _HIDDEN_FLOATS_AT_ONCE // (self.config.hidden * inp))


@dataclass(frozen=True)
class ConstantConfig:
    """The kinds of layers that have a pair of their own, and the rule of the others."""

    kv_rule: str = "average"  # a key of RULES
    learned: tuple[str, ...] = PAPER_LEARNED
    columns: Columns = ()  # whose coefficients have offsets of their own

    def __post_init__(self) -> None:
        object.__setattr__(self, "learned", check_kinds(self.learned))
        check_choice(RULES, kv_rule=self.kv_rule)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ConstantConfig:
        """Make the config that a checkpoint's metadata states; KeyError, ValueError or TypeError when it is none."""
        return cls(str(data["kv_rule"]), tuple(map(str, data["learned"])), parse_columns(data))


class ConstantCoefficients(nn.Module):
    """One (m_c, m_s) for each learned kind of layer, whatever the two LoRAs are: an ablation.

    Trained by the same loss as the hypernetwork, it shows what predicting from the LoRAs adds. With `config.columns`
    each column of each layer has its own.
    """

    def __init__(self, config: ConstantConfig | None = None) -> None:
        super().__init__()
        self.config = config or ConstantConfig()
        self.pairs = nn.ParameterDict({kind: nn.Parameter(torch.full((2,), 0.5)) for kind in self.config.learned})
        self.columns = ColumnOffsets(self.config.columns)

    def forward(
        self,
        content_down: Float[Tensor, "n content_rank inp"],
        content_up: Float[Tensor, "n out content_rank"],
        style_down: Float[Tensor, "n style_rank inp"],
        style_up: Float[Tensor, "n out style_rank"],
        modules: Sequence[str],
    ) -> Float[Tensor, "n 2 inp"]:
        """Return the coefficients of n layers, as a Hypernetwork does; of the factors, only the width matters."""
        return self.of(content_down.shape[2], modules)

    def of(self, inputs: int, modules: Sequence[str]) -> Float[Tensor, "n 2 inp"]:
        """Return the coefficients (m_c, m_s) of n layers of learned kinds with so many inputs."""
        pairs = torch.stack([self.pairs[str(kind_of(module))] for module in modules])[:, :, None]
        return pairs + self.columns(inputs, modules) if len(self.columns) else pairs.expand(-1, -1, inputs)

    def constants(self) -> dict[str, tuple[float, float]]:
        """Return the pairs as numbers, by kind."""
        values = {kind: pair.detach().tolist() for kind, pair in self.pairs.items()}
        return {kind: (content, style) for kind, (content, style) in values.items()}
