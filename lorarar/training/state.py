"""The state of an unfinished training: a safetensors file from which it goes on to the same bits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorarar.cli import InputError, atomic_file

_KEY = "lorarar_training_state"
DEFAULT_EVERY = 100  # steps


@dataclass(frozen=True)
class StateFile:
    """Where the state is kept, how often it is written, and which training it belongs to.

    `training` describes what must be the same to go on: settings, base, prompts, images. The number of steps is not
    part of it, so a finished training can be continued with more.
    """

    path: Path
    training: Mapping[str, Any]
    every: int = DEFAULT_EVERY

    def save(self, parameters: Mapping[str, Tensor], optimizer: Any, scaler: Any, losses: Sequence[float]) -> None:
        """Write the trained parameters, the optimizer's moments, the fp16 loss scale and the losses so far."""
        from safetensors.torch import save_file

        tensors = {f"parameter.{name}": value.detach().contiguous() for name, value in parameters.items()}
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value.contiguous() for name, value in moments.items()}
        tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
        text = json.dumps({"training": self.training, "scaler": scaler.state_dict() if scaler else None})
        with atomic_file(self.path) as temporary:
            save_file(tensors, temporary, metadata={_KEY: text})

    def load(self, parameters: Mapping[str, Tensor], optimizer: Any, scaler: Any) -> list[float]:
        """Put the saved state in place and return the losses so far; nothing and an empty list without a file.

        Raises InputError for a damaged file and for the state of another training.
        """
        if not self.path.exists():
            return []
        about, tensors = self._read()
        saved = about["training"]
        different = [key for key in {**saved, **self.training} if saved.get(key) != self.training.get(key)]
        if different:
            raise InputError(
                f"{self.path}: this state is of a training with other settings ({', '.join(different)}); "
                "give the same settings to go on, or another --state to start afresh"
            )
        try:
            with torch.no_grad():
                for name, value in parameters.items():
                    value.copy_(tensors[f"parameter.{name}"])
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                kind, _, rest = name.partition(".")
                if kind == "optimizer":
                    index, _, moment = rest.partition(".")
                    moments.setdefault(int(index), {})[moment] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
            if scaler:
                scaler.load_state_dict(about["scaler"])
            return tensors["losses"].tolist()
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise self._damaged(error) from None

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                about = json.loads((file.metadata() or {})[_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if not isinstance(about["training"], dict):
                raise TypeError("no settings")
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise self._damaged(error) from None
        return about, tensors

    def _damaged(self, error: Exception) -> InputError:
        return InputError(f"{self.path}: not a state of this training ({error}); delete it or give another --state")
