"""Real networks as Core ML packages, evaluated and compared with PyTorch: `python -m coreml_suite.packages`."""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coreml_suite.apple import apple_networks
from coreml_suite.special import Job, Picked, eight_bits, llama_with_states
from torch import Tensor, nn

from lorarar.errors import InputError
from runtime_py.mil import Program

ROOT = Path(__file__).parents[3]
OUT = ROOT / "build" / "coreml" / "packages.json"
LARGEST_ERROR = 1e-4  # of the peak, in fp32
BEYOND = {"torchvision fcn_resnet50": (3e-4, "PyTorch's own fp32 is 1.2e-4 off its fp64 there")}
"""Networks with another limit, and why."""
TORCHVISION = (
    *(
        "mobilenet_v2",
        "mobilenet_v3_small",
        "resnet18",
        "resnet50",
        "efficientnet_b0",
        "convnext_tiny",
        "regnet_y_400mf",
    ),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "densenet121", "googlenet", "mnasnet0_5", "vgg11_bn", "alexnet", "swin_t"),
    *("inception_v3", "deeplabv3_mobilenet_v3_large", "fcn_resnet50"),
)
TIMM = (
    *("vit_tiny_patch16_224", "deit_tiny_patch16_224", "efficientvit_b0", "mobilevitv2_050", "mobilevit_xxs"),
    *("swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224", "fastvit_mci0", "fastvit_t8", "repvit_m0_9"),
    *("mobilenetv4_conv_small", "ghostnetv2_100", "hrnet_w18_small", "levit_128s", "poolformer_s12", "mixer_s16_224"),
    *(
        "coat_lite_tiny",
        "edgenext_xx_small",
        "tiny_vit_5m_224",
        "nfnet_l0",
        "darknet53",
        "vit_small_patch14_reg4_dinov2",
    ),
    *("vit_base_patch16_siglip_224", "xcit_nano_12_p16_224"),
)


def torchvision_network(name: str) -> Job:
    from torchvision import models

    more: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        more |= {"aux_logits": False, "init_weights": False}
    if name.startswith(("deeplab", "fcn")):
        more["weights_backbone"] = None
    made = models.get_model(name, **more)
    return Picked(made, "out" if name.startswith(("deeplab", "fcn")) else None), {"x": torch.rand(1, 3, 224, 224)}


def timm_network(name: str) -> Job:
    import timm

    made = timm.create_model(name, pretrained=False)
    for weights in made.parameters():
        if weights.ndim > 1 and not weights.any():  # some heads begin with zeros, and say nothing
            nn.init.normal_(weights, std=0.02)
    return made, {"x": torch.rand(1, *made.default_cfg["input_size"])}


def calibrated(job: Job) -> Job:
    """Let batch norms see noise: with those of a new network, deep ones fade away below fp16's range."""
    module, inputs = job
    norms = [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    if norms:
        for norm in norms:
            norm.momentum = None  # the average of all batches
        with torch.no_grad():
            module.train()(*(torch.rand(4, *value.shape[1:]) for value in inputs.values()))
    return job


class Logits(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(tokens, use_cache=False, return_dict=False)[0]


def gpt2() -> Job:
    from transformers import GPT2Config, GPT2LMHeadModel

    made = GPT2LMHeadModel(GPT2Config(attn_implementation="eager"))
    return Logits(made), {"tokens": torch.randint(0, 50_000, (1, 24), dtype=torch.int32)}


class WhisperEncoder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, sound: Tensor) -> Tensor:
        return self.inner(sound, return_dict=False)[0]


class WhisperDecoder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor, heard: Tensor) -> Tensor:
        return self.inner(tokens, encoder_hidden_states=heard, use_cache=False, return_dict=False)[0]


def whisper(part: str) -> Job:
    from transformers import WhisperConfig, WhisperModel

    heads = {"encoder_attention_heads": 6, "decoder_attention_heads": 6}  # whisper-tiny's sizes
    widths = {"d_model": 384, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536}
    made = WhisperModel(WhisperConfig(**widths, **heads, attn_implementation="eager"))
    if part == "encoder":
        return WhisperEncoder(made.encoder), {"sound": torch.randn(1, 80, 3000)}
    tokens = torch.randint(0, 50_000, (1, 12), dtype=torch.int32)
    return WhisperDecoder(made.decoder), {"tokens": tokens, "heard": torch.randn(1, 1500, 384)}


def jobs(checkout: Path | None) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return what compares each network; `checkout` is of apple/ml-stable-diffusion."""
    made: dict[str, Callable[[], Job]] = {"GPT-2 (124M)": gpt2}
    made |= {f"Whisper tiny, {part}": lambda part=part: whisper(part) for part in ("encoder", "decoder")}
    made |= {"weights and activations of eight bits": eight_bits}
    made |= {f"torchvision {name}": lambda name=name: calibrated(torchvision_network(name)) for name in TORCHVISION}
    made |= {f"timm {name}": lambda name=name: calibrated(timm_network(name)) for name in TIMM}
    made |= apple_networks(checkout) if checkout is not None else {}
    compared = {name: lambda make=make: compare(make()) for name, make in made.items()}
    return {"Llama, its cache a state": llama_with_states, **compared}


def compare(job: Job) -> dict[str, Any]:
    """Convert a network twice and compare: as fp32, and as coremltools does by default, run with fp16's rounding."""
    module, inputs = job
    module.eval()
    with torch.no_grad():
        wanted = module(*inputs.values()).numpy()
    found: dict[str, Any] = {}
    given = {name: value.numpy() for name, value in inputs.items()}
    with tempfile.TemporaryDirectory() as folder:
        for mode, program in converted(job, Path(folder)):
            (made,) = program.predict(given, mode=mode).values()
            found["operations"] = len([kind for kind in program.op_counts().elements() if kind != "const"])
            error = np.abs(made.astype(np.float64) - wanted).max() / np.abs(wanted).max()
            noise = np.sqrt(np.mean((made.astype(np.float64) - wanted) ** 2))
            found[mode] = 20 * math.log10(np.abs(wanted).max() / max(noise, 1e-30))
            if mode == "fp32":
                found["error"] = float(error)
    return found


def converted(job: Job, folder: Path) -> Iterator[tuple[str, Program]]:
    """Convert a network as fp32, and as coremltools does by default; yield each with the mode that it is run in."""
    module, inputs = job
    with torch.no_grad():
        traced = torch.jit.trace(module.eval(), tuple(inputs.values()), check_trace=False)
    kinds = {torch.int32: np.int32}
    types = [
        ct.TensorType(name=name, shape=value.shape, dtype=kinds.get(value.dtype, np.float32))
        for name, value in inputs.items()
    ]
    for mode, precision in (("fp32", ct.precision.FLOAT32), ("fp16", ct.precision.FLOAT16)):
        path = folder / f"{mode}.mlpackage"
        how = {"compute_precision": precision, "minimum_deployment_target": ct.target.iOS17}
        ct.convert(traced, inputs=types, skip_model_load=True, **how).save(str(path))
        yield mode, Program.open(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare the networks, each noted as it is done; what is noted already is left out."""
    parser = argparse.ArgumentParser(prog="coreml_suite.packages", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", default="", help="part of a name")
    parser.add_argument("--apple", type=Path, metavar="DIR", help="a checkout of github.com/apple/ml-stable-diffusion")
    args = parser.parse_args(argv)
    done: list[dict[str, Any]] = json.loads(args.out.read_text()) if args.out.is_file() else []
    known = {each["name"] for each in done}
    for name, result in _results(
        {n: make for n, make in jobs(args.apple).items() if args.only in n and n not in known}
    ):
        done.append({"name": name, **result})
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
        print(name, result, flush=True)
    bad = [each["name"] for each in done if each.get("error", 1.0) > BEYOND.get(each["name"], (LARGEST_ERROR, ""))[0]]
    print(f"{len(done) - len(bad)} of {len(done)} within their limits, {LARGEST_ERROR:g} of PyTorch")
    return 1 if bad else 0


def _results(todo: Mapping[str, Callable[[], dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, make in todo.items():
        torch.manual_seed(0)
        try:
            yield name, make()
        except InputError as error:
            yield name, {"refused": str(error)}
        except Exception as error:  # coremltools' converter, of a network that it does not know
            yield name, {"refused": f"not converted: {type(error).__name__}: {' '.join(str(error).split())[:150]}"}
        gc.collect()


if __name__ == "__main__":
    sys.exit(main())
