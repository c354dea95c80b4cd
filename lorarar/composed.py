"""A composed start: an image's first steps with each LoRA alone, their answers put together; the merge draws the rest.

The first steps settle what is where and in which colours. There the two LoRAs' own answers, each to its own part of the
prompt, show more of both than any merge does: ε(L_c; "a sks dog") + ε(L_s; "a dog in watercolour style") − ε("a dog"),
the score of images that fit both where the two do not depend on each other (composable diffusion, arXiv 2206.01714).
It takes four passes of the UNet a step in the place of guidance's two. No toolchain.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Real

from lorarar.errors import InputError

COMPOSED_SHARE = 0.5
"""Of the steps: half of them composed make an image half as long again."""


def steps_of(share: float, steps: int) -> int:
    """Return how many of the steps a share of them is, rounded up."""
    return math.ceil(share * steps - 1e-6)  # 0.28 of 25 is a little above 7 in doubles, and must be 7


def check_composed_share(composed_share: float) -> None:
    """Refuse a share of the steps that is not above 0 and at most 1."""
    if not (isinstance(composed_share, Real) and math.isfinite(composed_share) and 0 < composed_share <= 1):
        raise InputError(f"`composed_share` is {composed_share!r}; give a share of the steps above 0, at most 1")


@dataclass(frozen=True)
class ComposedStart:
    """What a prompt is taken apart by: the content's own words, and what they are without its token."""

    subject: str  # "a sks dog"
    subject_class: str  # "a dog"
    share: float = COMPOSED_SHARE  # of the steps, from the first

    def __post_init__(self) -> None:
        check_composed_share(self.share)
        if not all(isinstance(text, str) and text.strip() for text in (self.subject, self.subject_class)):
            raise InputError(
                "a composed start needs `subject` and `subject_class`, such as 'a sks dog' and 'a dog'; give both"
            )

    def holds(self, step: int, steps: int) -> bool:
        """Tell whether step `step` (from 0) of `steps` is composed."""
        return step < max(1, steps_of(self.share, steps))

    def prompts(self, prompt: str) -> tuple[str, str, str]:
        """Take a prompt apart: the content's own, the style's with the class in it, and the class.

        Raises InputError for a prompt without the subject, which a part of a word is not: "a dog" in "a doghouse".
        """
        places = self._places(prompt)
        if not places:
            raise InputError(
                f"the prompt {prompt!r} does not have the `subject` {self.subject!r} in it; a composed start needs it "
                f"word for word, as in  {self.subject} in watercolor style"
            )
        starts, ends = [0, *(place.end() for place in places)], [*(place.start() for place in places), len(prompt)]
        styled = self.subject_class.join(prompt[start:end] for start, end in zip(starts, ends, strict=True))
        return self.subject, styled, self.subject_class

    def _places(self, prompt: str) -> list[re.Match[str]]:
        found = re.finditer(re.escape(self.subject), prompt)
        return [place for place in found if not any(_is_letter(prompt, at) for at in (place.start() - 1, place.end()))]


def _is_letter(text: str, at: int) -> bool:
    """Tell whether a letter or digit is at a place, of a script with blanks between words (those before U+0590)."""
    return 0 <= at < len(text) and text[at] < "\u0590" and (text[at].isalpha() or text[at].isdecimal())
