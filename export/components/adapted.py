"""Networks with adapter inputs: linears to which a stack of LoRAs is added, as much of each as the coefficients say.

A linear gives W x + b + up·((down ⊙ (roles·m)) x), m being this image's coefficients: Eq. 2 of the paper for any number
of LoRAs. No ΔW is formed and no weight changes, so that another LoRA is other tensors, and another merge other
coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorarar.layout import ROLES, Group


def add_by_matmul(
    x: Float[Tensor, "b tokens inp"],
    down: Float[Tensor, "rank inp"],
    up: Float[Tensor, "out rank"],
    roles: Float[Tensor, "rank loras"],
    coefficients: Float[Tensor, "b loras inp"],
) -> Float[Tensor, "b tokens out"]:
    """Return up·((down ⊙ (roles·m)) x), each image with coefficients of its own."""
    scaled = down * torch.matmul(roles, coefficients)
    return torch.matmul(torch.matmul(x, scaled.transpose(1, 2)), up.transpose(0, 1))


def add_by_bmm(
    x: Float[Tensor, "b tokens inp"],
    down: Float[Tensor, "rank inp"],
    up: Float[Tensor, "out rank"],
    roles: Float[Tensor, "b rank loras"],
    coefficients: Float[Tensor, "b loras inp"],
) -> Float[Tensor, "b tokens out"]:
    """Return the same for XNNPACK: of operands that are not constants it multiplies `bmm` of equal batches alone."""
    scaled = down[None] * torch.bmm(roles, coefficients)
    shared = torch.bmm(x, scaled.transpose(1, 2)).reshape(1, -1, len(down))
    return torch.bmm(shared, up.transpose(0, 1)[None]).reshape(len(x), -1, len(up))


class Form(NamedTuple):
    """A way to add LoRAs to a linear."""

    prepare: Callable[[Tensor, int], Tensor]  # makes of the roles, and of the batch, what every layer takes
    add: Callable[..., Tensor]


FORMS: Mapping[str, Form] = {
    "matmul": Form(lambda roles, batch: roles, add_by_matmul),
    "bmm": Form(lambda roles, batch: roles.expand(batch, *roles.shape), add_by_bmm),
}
"""By the names that `export.targets.target.Target.adapter_form` holds."""


class Adapters:
    """Where the linears of a network find the stack and the coefficients of the pass that is running.

    The network is taken over: its linears in these groups are replaced in place, and take what `put` gave last. `form`
    is a key of FORMS.

    A plain object, since a module that kept tensors in a dict of its own would go on using those it was traced with.
    """

    def __init__(self, network: nn.Module, groups: Sequence[Group], form: str) -> None:
        self.groups, self.form = groups, FORMS[form]
        self.roles: Any = None
        self.rows: Mapping[str, tuple[Tensor, Tensor, Tensor]] = {}
        for name in (module for group in groups for module in group.modules):
            network.set_submodule(name, AdaptedLinear(network.get_submodule(name), self, name))

    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the roles, the factors and the coefficients of a pass by the names of its inputs."""
        if self.groups:
            self.roles = self.form.prepare(tensors[ROLES], len(tensors[self.groups[0].coefficients]))
        self.rows = {
            module: (tensors[group.down][row], tensors[group.up][row], tensors[group.coefficients][:, row])
            for group in self.groups
            for row, module in enumerate(group.modules)
        }

    def clear(self) -> None:
        """Let go of the tensors, once the pass is over."""
        self.roles, self.rows = None, {}


NO_ADAPTERS = Adapters(nn.Module(), (), "matmul")
"""Those of a network that takes no LoRA."""


class AdaptedLinear(nn.Module):
    """A linear to whose output the LoRAs of the running pass are added."""

    def __init__(self, linear: nn.Module, adapters: Adapters, name: str) -> None:
        super().__init__()
        self.linear, self.adapters, self.name = linear, adapters, name

    def forward(self, x: Float[Tensor, "b tokens inp"]) -> Float[Tensor, "b tokens out"]:
        adapters = self.adapters
        down, up, coefficients = adapters.rows[self.name]
        # Scaled here, not for a whole group: one layer's rows stay in the cores' cache until they are used.
        return self.linear(x) + adapters.form.add(x, down, up, adapters.roles, coefficients)
