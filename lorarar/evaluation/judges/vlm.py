"""Judge by a multimodal language model: any transformers image-text-to-text model with a chat template.

LLaVA-OneVision (of which the paper's LLaVA-Critic is a fine-tune), Qwen2.5-VL and Qwen3-VL are of this kind. The two
prompts are the paper's (Fig. A1 and A2), the reference image first. Instead of reading one generated word, P(yes) is
computed from the logits of the first token of the answer, which has no ties and needs no parsing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorarar.base.components import fingerprint
from lorarar.errors import InputError, said_by
from lorarar.evaluation.metrics import processor_digest
from lorarar.toolchains import TRAINING, named_if_missing, quiet_toolchains

if TYPE_CHECKING:
    from lorarar.evaluation.judges import Question

SYSTEM = "You are a helpful assistant."

# Paper, Fig. A1. The text before the reference image, between the images, and after the test image.
SUBJECT_PROMPT = (
    "Your task is to identify if the test image shows the same subject as the support image.\n\nSupport image:\n",
    "\n\nTest image:\n",
    "\n\nPay attention to the details of the subject, it should for example have the same color. However, the general "
    "style of the image may be different.\nDoes the test image show the same subject as the support image?\n"
    "Answer with Yes or No only.",
)
# Paper, Fig. A2.
STYLE_PROMPT = (
    "Your task is to identify if the test image shows the subject in {style} style. An example image in the {style} "
    "style is provided.\n\nExample image in the {style} style:\n",
    "\n\nTest image:\n",
    "\n\nThe example image shows an illustration of the {style} style and the details of the subject are expected to "
    "be different.\nDo not check similarity with the subject.\nIs the test image in the {style} style?\n"
    "Answer with Yes or No only.",
)


class VlmJudge:
    """A judge whose P(yes) is Σ P("Yes") / Σ (P("Yes") + P("No")), over first tokens in all casings."""

    def __init__(self, model: Any, processor: Any, source: str, batch: int = 4) -> None:
        self.model, self.processor, self.name, self.batch = model, processor, Path(source).name, batch
        self.yes, self.no = answer_tokens(processor.tokenizer, source)
        # Once: every pair's verdicts are kept with them.
        self.weights, self.reading = fingerprint(model), processor_digest(processor)

    @classmethod
    def load(cls, source: str, device: str = "cpu", batch: int = 4) -> VlmJudge:
        """Load a model from a folder or a hub id. Only safetensors are read, and no code of the repository is run.

        Raises InputError when the model can't be had, is of another kind, or has no chat template.
        """
        with named_if_missing(TRAINING, "train"):
            from transformers import AutoModelForImageTextToText, AutoProcessor
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        try:
            with quiet_toolchains():
                processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
                model, told = AutoModelForImageTextToText.from_pretrained(
                    source, dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True
                )
        except ImportError as error:
            raise InputError(f"the judge {source} needs another package: {said_by(error)}") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            advice = "check the folder" if Path(source).is_dir() else "give a folder, or a hub id with the network on"
            raise InputError(f"the judge {source!r} can't be loaded ({said_by(error)}); {advice}") from None
        # Which transformers draws at random.
        if lacking := sorted([*told["missing_keys"], *(name for name, *_ in told["mismatched_keys"])]):
            raise InputError(f"the judge {source} lacks weights, such as {lacking[0]}; get the model again")
        if getattr(processor, "chat_template", None) is None:
            raise InputError(f"the judge {source} has no chat template; give an instruction-tuned model")
        return cls(model.eval().requires_grad_(False).to(device), processor, source, batch)

    def describe(self) -> dict[str, Any]:
        """Return everything that the verdicts depend on, as JSON."""
        config = self.model.config
        return {
            "kind": "vlm",
            "name": self.name,
            "model": config.model_type,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "revision": getattr(config, "_commit_hash", None),
            "weights": self.weights,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "prompts": [*SUBJECT_PROMPT, *STYLE_PROMPT],
            "processor": self.reading,
        }

    def same_subjects(self, questions: Sequence[Question]) -> list[float]:
        return self._ask([conversation(SUBJECT_PROMPT, question) for question in questions])

    def in_styles(self, questions: Sequence[Question]) -> list[float]:
        prompts = [[part.replace("{style}", question.text) for part in STYLE_PROMPT] for question in questions]
        return self._ask([conversation(prompt, item) for prompt, item in zip(prompts, questions, strict=True)])

    def _ask(self, conversations: Sequence[list[dict[str, Any]]]) -> list[float]:
        answers: list[float] = []
        for first in range(0, len(conversations), self.batch):
            logits = self._next_token_logits(list(conversations[first : first + self.batch]))
            answers += probability_of_yes(logits, self.yes, self.no).tolist()
        return answers

    @torch.inference_mode()
    def _next_token_logits(self, conversations: list[list[dict[str, Any]]]) -> Float[Tensor, "n vocabulary"]:
        inputs = self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            # On the left, so that the last position is the answer's in every row.
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(self.model.device, self.model.dtype)
        # By `generate`, which knows each model's positions for padded rows and images.
        with quiet_toolchains():
            output = self.model.generate(
                **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True
            )
        return output.logits[0].float()


def conversation(prompt: Sequence[str], question: Question) -> list[dict[str, Any]]:
    """Return the chat of one question: the system's line, then text, reference, text, test image, text."""
    before, between, after = prompt
    user = [
        {"type": "text", "text": before},
        {"type": "image", "image": question.reference},
        {"type": "text", "text": between},
        {"type": "image", "image": question.test},
        {"type": "text", "text": after},
    ]
    return [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
        {"role": "user", "content": user},
    ]


def answer_tokens(tokenizer: Any, source: str) -> tuple[list[int], list[int]]:
    """Return the first tokens of "Yes" and of "No" in every casing, with and without a leading space.

    A token that begins both (a lone space in some vocabularies) says nothing and is left out. Raises InputError when
    none is left.
    """

    def first_tokens(word: str) -> set[int]:
        forms = [space + form for space in ("", " ") for form in (word, word.lower(), word.upper())]
        return {tokenizer.encode(form, add_special_tokens=False)[0] for form in forms}

    yes, no = first_tokens("Yes"), first_tokens("No")
    if yes <= no or no <= yes:
        raise InputError(f"the judge {source} spells Yes and No with the same first token; choose another model")
    return sorted(yes - no), sorted(no - yes)


def probability_of_yes(
    logits: Float[Tensor, "n vocabulary"], yes: Sequence[int], no: Sequence[int]
) -> Float[Tensor, " n"]:
    """Return P(yes) among the tokens of both answers; the rest of the vocabulary is left out."""
    return torch.sigmoid(logits[:, list(yes)].logsumexp(dim=1) - logits[:, list(no)].logsumexp(dim=1))
