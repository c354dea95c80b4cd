"""Keep the state of an unfinished training: a safetensors file from which it goes on; on a CPU, to the same bits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorarar.errors import InputError, said_by
from lorarar.files import atomic_file, write_tensors
from lorarar.training.settings import DEFAULT_EVERY

_KEY = "lorarar_training_state"
_ADAM = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of one parameter


@dataclass(frozen=True)
class StateFile:
    """The place of a training's state, how often it is written, and which training it belongs to.

    `training` describes what must be the same to go on: settings, base, prompts, images. The number of steps is not
    part of it, so a finished training can be continued with more.
    """

    path: Path
    training: Mapping[str, Any]
    every: int = DEFAULT_EVERY

    def save(
        self,
        parameters: Mapping[str, Tensor],
        optimizer: Any,
        scaler: Any,
        losses: Sequence[float],
        extra: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write the trained parameters, the optimizer's moments, the fp16 loss scale, the losses so far and `extra`."""
        moments = optimizer.state_dict()["state"]
        tensors = {}
        for index, (name, value) in enumerate(parameters.items()):
            tensors[f"parameter.{name}"] = value.detach().contiguous()
            held = moments[index] if index in moments else _unmoved(value)
            tensors |= {f"{moment}.{name}": held[moment].contiguous() for moment in _ADAM}
        tensors |= {f"extra.{name}": value.detach().contiguous() for name, value in (extra or {}).items()}
        tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
        text = json.dumps({"training": self.training, "scaler": scaler.state_dict() if scaler else None})
        with atomic_file(self.path) as temporary:
            write_tensors(tensors, temporary, {_KEY: text})

    def load(
        self, parameters: Mapping[str, Tensor], optimizer: Any, scaler: Any, steps: int
    ) -> tuple[list[float], dict[str, Tensor]]:
        """Put the saved state in place; return the losses so far and the `extra` tensors, both empty without a file.

        Raises InputError for a damaged file, for the state of another training, and for one of more than `steps` steps.
        """
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return [], {}
        try:
            with safe_open(self.path, "pt") as file:
                about = json.loads((file.metadata() or {})[_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self._check_training(about["training"], len(tensors["losses"]), steps)
            _restore(tensors, parameters, optimizer)
            if scaler:
                scaler.load_state_dict(about["scaler"])
            if tensors["losses"].ndim != 1:
                raise ValueError("the losses are no list")
        except InputError:
            raise
        except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
            raise InputError(
                f"{self.path}: not a state of this training ({said_by(error)}); delete it or give another `state`"
            ) from None
        extra = {name.removeprefix("extra."): value for name, value in tensors.items() if name.startswith("extra.")}
        return tensors["losses"].tolist(), extra

    def due(self, step: int, steps: int) -> bool:
        """Tell whether the state is written after that step of so many."""
        return step % self.every == 0 or step == steps

    def _check_training(self, saved: Any, done: int, steps: int) -> None:
        different = [key for key in {**saved, **self.training} if saved.get(key) != self.training.get(key)]
        if different:
            raise InputError(
                f"{self.path}: this state is of a training with other settings ({', '.join(different)}); "
                "give the same settings to go on, or another `state` to start afresh"
            )
        if done > steps:
            raise InputError(
                f"{self.path}: this state has {done} steps, more than the {steps} of `steps`; give {done} or more, or "
                "another `state` to start afresh"
            )


def _unmoved(value: Tensor) -> dict[str, Tensor]:
    """Return what AdamW has before its first step, which fp16's scaler puts off while gradients overflow."""
    return {name: torch.tensor(0.0) if name == "step" else torch.zeros_like(value) for name in _ADAM}


def _restore(tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor], optimizer: Any) -> None:
    """Put parameters and moments in place. ValueError or KeyError for what is missing or has another shape."""
    moments: dict[int, dict[str, Tensor]] = {}
    for index, (name, value) in enumerate(parameters.items()):
        shapes = {"parameter": value.shape, "exp_avg": value.shape, "exp_avg_sq": value.shape, "step": torch.Size()}
        saved = {kind: tensors[f"{kind}.{name}"] for kind in shapes}
        if any(saved[kind].shape != shape for kind, shape in shapes.items()):
            raise ValueError(f"{name} has another shape")
        with torch.no_grad():
            value.copy_(saved["parameter"])
        moments[index] = {kind: saved[kind] for kind in _ADAM}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
