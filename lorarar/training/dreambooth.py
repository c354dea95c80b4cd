"""Train a LoRA by DreamBooth (paper §5, appendix A1.3): a few images, one prompt, the text encoders frozen.

Joint training, a baseline of the paper (A1.3), is the same with two concepts, a subject and a style, which take turns;
every pair needs a training of its own. LoRA layers sit on every attention linear through PEFT; accelerate brings
devices, precision and several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorarar import __version__
from lorarar.base.components import Components, predict, target, training_identity
from lorarar.errors import InputError, check_loss
from lorarar.files import file_digest
from lorarar.layout import UNET
from lorarar.lora import LoRA, LoraLayer
from lorarar.toolchains import TRAINING, named_if_missing
from lorarar.training.examples import Examples, Reference, encode_concepts, seeded_generator
from lorarar.training.launch import new_accelerator
from lorarar.training.settings import DEFAULT_EVERY, MEMORY_OPTIONS, LoraSettings
from lorarar.training.state import StateFile
from lorarar.training.style_words import StyleWords
from lorarar.training.styled import StyledPrompts, is_styled

TARGET_MODULES = ["to_q", "to_k", "to_v", "to_out.0"]
# As in diffusers' DreamBooth scripts, which the paper's LoRAs follow; the paper names neither.
WEIGHT_DECAY = 1e-2
MAX_GRAD_NORM = 1.0

OnStep = Callable[[int, float], None]
"""Called after each step with the number of steps done and the step's loss."""


def train_lora(
    components: Components,
    concepts: Sequence[Reference],
    settings: LoraSettings,
    *,
    words: StyleWords | None = None,
    on_step: OnStep | None = None,
    state: Path | None = None,
    state_every: int = DEFAULT_EVERY,
) -> LoRA:
    """Train one LoRA on one or more concepts, which take equal turns; `components` are as before when it returns.

    `words` are for `settings.styled`, of a single concept, a subject. `state` is a file from which an interrupted
    training goes on. Raises InputError for unusable images, prompts, settings or state, and when the loss is no longer
    finite.
    """
    accelerator = new_accelerator(components.device, settings.mixed_precision, settings.accumulation)
    settings.check_processes(accelerator.num_processes)
    if (words is not None) != (settings.styled > 0) or (words is not None and len(concepts) > 1):
        raise InputError("`styled` is for one subject, with its class and words for styles; give all, or leave all out")
    examples = encode_concepts(components, concepts, settings.flip)
    styled = None if words is None else StyledPrompts.encode(components, concepts[0].prompt, words)
    file = None if state is None else StateFile(state, _identity(components, concepts, settings, words), state_every)
    with _adapter(components.unet, settings, examples.stream):
        training = _LoraTraining(components, examples, styled, settings, accelerator)
        try:
            training.run(on_step or (lambda step, loss: None), file)
        finally:
            # accelerate wraps `forward`, and keeps the optimizer's memory.
            accelerator.unwrap_model(training.model, keep_fp32_wrapper=False)
            accelerator.free_memory()
            # It marks what it has wrapped and never takes the mark away (accelerate 1.15): the next LoRA on this UNet
            # would be trained without autocast.
            vars(components.unet).pop("_is_accelerate_prepared", None)
        layers = _layers(components.unet)
    return LoRA(layers, source="trained LoRA", metadata=_metadata(components, concepts, settings, words))


@contextmanager
def _adapter(unet: Any, settings: LoraSettings, stream: int) -> Iterator[None]:
    """Put LoRA layers on the UNet's attention linears, the only ones with gradients; they are gone on leaving.

    `down` starts normal with deviation 1/rank and `up` zero. alpha equals the rank, so ΔW = up @ down. The start
    depends on prompt and images too: LoRAs that began alike would stay aligned, which those found in the wild are not.
    """
    with named_if_missing(TRAINING, "train"):
        from peft import LoraConfig
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.rank, init_lora_weights="gaussian", target_modules=TARGET_MODULES
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeded_generator(settings.seed, stream, 0).initial_seed())
        unet.add_adapter(config)
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # steps of 5e-5 vanish in half precision
    if settings.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if settings.gradient_checkpointing:
            unet.disable_gradient_checkpointing()
        unet.unload_lora()


class _LoraTraining:
    """A training under way: the adapter's parameters, AdamW with a constant rate on them, and a step of both."""

    def __init__(
        self,
        components: Components,
        examples: Examples,
        styled: StyledPrompts | None,
        settings: LoraSettings,
        accelerator: Any,
    ) -> None:
        self.components, self.examples, self.styled = components, examples, styled
        self.settings, self.accelerator = settings, accelerator
        self.parameters = {name: value for name, value in components.unet.named_parameters() if value.requires_grad}
        adamw = torch.optim.AdamW(self.parameters.values(), settings.learning_rate, weight_decay=WEIGHT_DECAY)
        self.model, self.optimizer = accelerator.prepare(components.unet, adamw)

    def run(self, on_step: OnStep, file: StateFile | None) -> None:
        """Train for the steps that the state file lacks; the losses of those it has are reported again."""
        steps, state = self.settings.steps, (self.parameters, self.optimizer, self.accelerator.scaler)
        losses = [] if file is None else file.load(*state, steps)[0]
        for step, loss in enumerate(losses, start=1):
            on_step(step, loss)
        for step in range(len(losses) + 1, steps + 1):
            losses.append(self.step(step - 1))
            check_loss(losses[-1], f"step {step}")
            on_step(step, losses[-1])
            if file is not None and self.accelerator.is_main_process and file.due(step, steps):
                file.save(*state, losses)

    def step(self, number: int) -> float:
        """Take one optimizer step; return the mean loss of its whole batch, over passes and processes."""
        passes, processes = self.settings.accumulation, self.accelerator.num_processes
        share = self.settings.batch_size // (passes * processes)
        total = torch.zeros((), device=self.components.device)
        for turn in range(passes):
            first = (turn * processes + self.accelerator.process_index) * share
            with self.accelerator.accumulate(self.model):
                loss = self._loss(number, range(first, first + share))
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.parameters.values(), MAX_GRAD_NORM)
                self.optimizer.step()
                self.optimizer.zero_grad()
            total += loss.detach() / passes
        return float(self.accelerator.reduce(total, reduction="mean"))

    def _loss(self, number: int, rows: range) -> Tensor:
        """Return the mean squared error of the given rows of a step's batch, in fp32."""
        components, settings = self.components, self.settings
        times = components.noise.config.num_train_timesteps
        batch = self.examples.draw(number, rows, settings.batch_size, settings.seed, times)
        noisy = components.noise.add_noise(batch.latents, batch.noise, batch.timesteps)
        goal = target(components, batch.latents, batch.noise, batch.timesteps)
        condition, first = batch.condition, number * settings.batch_size
        at = [place for place, row in enumerate(rows) if is_styled(first + row, settings.styled)]
        if self.styled is not None and at:
            condition, goal = self.styled.put_in(self.model, components.unet, batch, noisy, goal, at)
        return F.mse_loss(predict(self.model, noisy, batch.timesteps, condition).float(), goal)


def _layers(unet: nn.Module) -> dict[str, LoraLayer]:
    """Return the adapter's factors by full module name, PEFT's scaling folded into `up`."""
    from peft.tuners.lora import LoraLayer as PeftLayer

    layers = {}
    for name, module in unet.named_modules():
        if isinstance(module, PeftLayer):
            (adapter,) = module.lora_A
            factors: Any = module.lora_A[adapter].weight, module.lora_B[adapter].weight * module.scaling[adapter]
            down, up = (factor.detach().float().cpu().numpy().copy() for factor in factors)
            layers[UNET + name] = LoraLayer(down, up)
    return layers


def _identity(
    components: Components, concepts: Sequence[Reference], settings: LoraSettings, words: StyleWords | None
) -> dict[str, Any]:
    """Return what must be the same for a training to go on; the images by their content, wherever they lie."""
    about: dict[str, Any] = asdict(settings) | {"base": components.name, "resolution": components.resolution}
    for name in ("steps", *MEMORY_OPTIONS):
        del about[name]
    about["words"] = None if words is None else [words.subject_class, *words.styles]
    about["prompts"] = [concept.prompt for concept in concepts]
    about["images"] = [[file_digest(path) for path in concept.images] for concept in concepts]
    return about | training_identity(components)


def _metadata(
    components: Components, concepts: Sequence[Reference], settings: LoraSettings, words: StyleWords | None
) -> dict[str, str]:
    """Return how the LoRA was made, for the file's header."""
    return {
        "lorarar_version": __version__,
        "lorarar_base": components.name,
        "lorarar_prompt": " | ".join(concept.prompt for concept in concepts),
        "lorarar_images": " | ".join(str(len(concept.images)) for concept in concepts),
        "lorarar_resolution": str(components.resolution),
        **({} if words is None else {"lorarar_style_words": str(words)}),
        **{f"lorarar_{name}": str(value) for name, value in asdict(settings).items()},
    }
