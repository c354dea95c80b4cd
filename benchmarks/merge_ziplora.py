"""ZipLoRA's optimisation of one pair, which the merge stands beside in the paper's Table 2: a step of it, measured.

    python -m benchmarks.merge_ziplora --base BASE --rank R --steps N --threads T

A process of its own, so that its peak memory is its own too. Weights, latents and prompts are random numbers: a step
takes as long with any others. Encoding the pair's images and prompts is not part of it. Prints one JSON object.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from benchmarks.memory import peak_bytes
from lorarar.command_line import EXIT_OK, Parser, run_command
from lorarar.toolchains import quiet_toolchains

if TYPE_CHECKING:
    from lorarar.base.components import Components
    from lorarar.training.pair_data import PairData

STRENGTH = 1e-3  # of the LoRAs: about a weight's tenth, as after some training; strong ones end in NaN
LATENT_SIDE = 64  # at most: 512×512 pixels on SDXL, where the paper has 1024×1024
# Above it, activations of two rows don't fit beside the weights in 24 GB, and are computed a second time instead.
CHECKPOINTED_PARAMETERS = 1.5e9


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.merge_ziplora", description=__doc__.split("\n\n")[0])
    parser.add_argument("--base", required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1, help="measured, after one that is not (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    print(json.dumps(measure(options.base, options.rank, options.steps, options.threads)))
    return EXIT_OK


def measure(base: str, rank: int, steps: int, threads: int) -> dict[str, Any]:
    """Seconds of each of `steps` steps in fp32 after a first one, and what the whole optimisation is."""
    import torch

    from lorarar.base.names import unet_layout
    from lorarar.layout import Layout
    from lorarar.merging.ziplora import optimise_pair
    from lorarar.training.hyper_settings import ZipSettings

    torch.set_num_threads(threads)
    components = random_base(base)
    layout: Layout = unet_layout(components.unet, base)
    many = sum(parameter.numel() for parameter in components.unet.parameters()) > CHECKPOINTED_PARAMETERS
    settings = ZipSettings(steps=steps + 1, gradient_checkpointing=many)
    ends: list[float] = []
    optimise_pair(
        components,
        layout,
        random_pair(components, layout, rank),
        settings,
        lambda step, loss: ends.append(time.perf_counter()),
    )
    seconds = [end - start for start, end in pairwise(ends)]
    return {
        "step_seconds": seconds,
        "steps": ZipSettings().steps,  # of a whole optimisation
        "parameters": sum(2 * len(group.modules) * group.in_features for group in layout.groups),
        "latent_side": components.resolution,
        "gradient_checkpointing": many,
        "peak_bytes": peak_bytes(),
    }


def random_base(base: str) -> Components:
    """The base's UNet with random weights, and the noise schedule: an optimisation runs nothing else.

    `resolution` is the latents' side. InputError for a base that has no such UNet.
    """
    import torch

    from lorarar.base.components import Components
    from lorarar.base.names import meta_unet, unet_config

    with quiet_toolchains():
        from diffusers import DDPMScheduler, UNet2DConditionModel
    meta_unet(base)  # says what a config is missing
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(unet_config(base)).requires_grad_(False).eval()
    side = min(LATENT_SIDE, unet.config.sample_size or LATENT_SIDE)
    nothing = (None, None)
    return Components(base, nothing, nothing, None, unet, DDPMScheduler(), side)


def random_pair(components: Components, layout: Any, rank: int) -> PairData:
    """Two LoRAs of that rank, and an image and a prompt of each."""
    import torch

    from lorarar.base.components import Condition
    from lorarar.commands.synthetic import synthetic_lora
    from lorarar.training.bank import LoraBank
    from lorarar.training.examples import Examples
    from lorarar.training.pair_data import PairData, RoleData

    config, side = components.unet.config, components.resolution
    tokens, times = 77, 6
    width = config.cross_attention_dim
    pooled = 0
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - times * config.addition_time_embed_dim

    def role(seed: int) -> RoleData:
        numbers = torch.Generator().manual_seed(seed)
        latents = torch.randn((1, config.in_channels, side, side), generator=numbers)
        embeds = torch.randn((1, tokens, width), generator=numbers)
        condition = Condition(embeds, torch.randn((1, pooled), generator=numbers), torch.zeros(1, times))
        bank = LoraBank.of([synthetic_lora(layout, rank, seed, STRENGTH)], layout, rank)
        return RoleData(bank, Examples((latents,), condition, stream=seed))

    return PairData(role(0), role(1), ((0, 0),))


if __name__ == "__main__":
    run_command(main)
