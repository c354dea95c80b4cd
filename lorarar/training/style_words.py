"""The words for styles under which a subject's LoRA can be trained to keep its subject. No toolchain."""

from __future__ import annotations

from dataclasses import dataclass

from lorarar.errors import InputError


def in_style(prompt: str, style: str) -> str:
    """Return a prompt with a style's words (paper, appendix A1.3)."""
    return f"{prompt} in {style} style"


@dataclass(frozen=True)
class StyleWords:
    """What a subject is without its token, and descriptions of styles."""

    subject_class: str  # "a dog"
    styles: tuple[str, ...]  # "watercolor painting"

    def __post_init__(self) -> None:
        """Refuse blank words, and no styles at all."""
        if not self.subject_class.strip() or not self.styles or not all(style.strip() for style in self.styles):
            raise InputError(
                "`styled` needs a `subject_class` and `styles`, such as 'a dog' and 'watercolor painting'; give both"
            )

    def __str__(self) -> str:
        """Return the words as a LoRA's header has them."""
        return " | ".join((self.subject_class, *self.styles))
