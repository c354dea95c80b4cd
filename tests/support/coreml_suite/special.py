"""Networks that need more than a conversion: a Llama whose cache is a state, and one of eight bits throughout."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from torch import Tensor, nn

from runtime_py.mil import Program

LONGEST = 32  # tokens that the cache has room for


Job = tuple[nn.Module, dict[str, Tensor]]
"""A network and its inputs by name."""


class Picked(nn.Module):
    """A network of which one output counts."""

    def __init__(self, inner: nn.Module, key: Any) -> None:
        super().__init__()
        self.inner, self.key = inner, key

    def forward(self, *inputs: Tensor) -> Tensor:
        made = self.inner(*inputs)
        return made[self.key] if self.key is not None else made


class _Kept:
    """A cache that the attention layers write into, one slice of it a step."""

    def __init__(self, keys: Tensor, values: Tensor, end: int, count: int) -> None:
        self.keys, self.values, self.begin, self.end = keys, values, end - count, end

    def update(self, keys: Tensor, values: Tensor, layer: int, more: Any = None) -> tuple[Tensor, Tensor]:
        found = []
        for kept, new in ((self.keys, keys), (self.values, values)):
            kept[layer : layer + 1, :, :, self.begin : self.end] = new.unsqueeze(0)
            found.append(kept[layer, :, :, : self.end])
        return found[0], found[1]


class StatefulLlama(nn.Module):
    """A Llama that takes the next token; what it read so far stays in its two buffers."""

    def __init__(self) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        super().__init__()
        sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": 1000}
        config = LlamaConfig(**sizes, num_attention_heads=8, num_key_value_heads=4, attn_implementation="eager")
        self.inner = LlamaForCausalLM(config)
        shape = (4, 1, 4, LONGEST, 32)  # layers, batch, heads, tokens, channels of a head
        self.register_buffer("keys", torch.zeros(shape))
        self.register_buffer("values", torch.zeros(shape))

    def forward(self, token: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        model, cache = self.inner.model, _Kept(self.keys, self.values, mask.shape[-1], token.shape[-1])
        hidden = model.embed_tokens(token)
        turns = model.rotary_emb(hidden, position)
        for layer in model.layers:
            hidden = layer(hidden, attention_mask=mask, past_key_value=cache, position_embeddings=turns)[0]
        return self.inner.lm_head(model.norm(hidden))


def llama_with_states() -> dict[str, Any]:
    """Read twelve tokens one by one with the state, and compare every step with the whole Llama at once."""
    model = StatefulLlama().eval().half().float()  # the program's weights are half precision
    tokens = torch.randint(0, 1000, (1, 12))
    with torch.no_grad():
        wanted = model.inner(tokens).logits[0].numpy()
        first = tokens[:, :1].int(), torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1, 1, 3)
        traced = torch.jit.trace(model, first, check_trace=False)
    inputs = [
        ct.TensorType("token", (1, 1), np.int32),
        ct.TensorType("position", (1, 1), np.int32),
        ct.TensorType("mask", (1, 1, 1, ct.RangeDim(1, LONGEST)), np.float16),
    ]
    kept = [ct.StateType(ct.TensorType(shape=model.keys.shape, dtype=np.float16), name) for name in ("keys", "values")]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.mlpackage"
        target = ct.target.iOS18
        converted = ct.convert(
            traced, inputs=inputs, states=kept, minimum_deployment_target=target, skip_model_load=True
        )
        converted.save(str(path))
        program = Program.open(path)
        found["operations"] = len([kind for kind in program.op_counts().elements() if kind != "const"])
        for mode in ("fp32", "fp16"):
            state, made = program.make_state(), []
            for at, token in enumerate(tokens[0].tolist()):
                given = {"token": np.array([[token]], np.int32), "position": np.array([[at]], np.int32)}
                given["mask"] = np.zeros((1, 1, 1, at + 1), np.float16)
                (logits,) = program.predict(given, state, mode=mode).values()
                made.append(logits[0, 0])
            error = np.stack(made).astype(np.float64) - wanted
            found[mode] = 20 * np.log10(np.abs(wanted).max() / np.sqrt(np.mean(error**2)))
            if mode == "fp32":
                found["error"] = float(np.abs(error).max() / np.abs(wanted).max())
    return found


def eight_bits() -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a small convolution network with weights and activations of eight bits, calibrated on noise."""
    from coremltools.optimize.torch.quantization import LinearQuantizer, LinearQuantizerConfig

    x = torch.rand(1, 3, 32, 32)
    layers = [
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3600, 10),
    ]
    config = LinearQuantizerConfig.from_dict(
        {"global_config": {"quantization_scheme": "symmetric", "milestones": [0, 4, 4, 4]}}
    )
    quantizer = LinearQuantizer(nn.Sequential(*layers), config)
    model = quantizer.prepare(example_inputs=(x,))
    for _ in range(5):
        model(torch.rand(8, 3, 32, 32))
        quantizer.step()
    return quantizer.finalize(), {"x": x}
