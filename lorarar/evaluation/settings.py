"""How an evaluation draws and trains, with the defaults of each base. No toolchain."""

from __future__ import annotations

from dataclasses import dataclass

from lorarar.base.names import PAPER_SAMPLING, usual_sampling
from lorarar.composed import COMPOSED_SHARE, check_composed_share
from lorarar.settings import check_at_least, check_from, check_seed, check_share, setting, use_plain_numbers
from lorarar.training.hyper_settings import ZipSettings
from lorarar.training.settings import LoraSettings, default_settings


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings of an evaluation; the defaults are the paper's for SDXL."""

    images: int = setting(10, "images a pair", metavar="N")
    steps: int = setting(PAPER_SAMPLING.steps, "denoising steps", metavar="N")
    guidance: float = setting(PAPER_SAMPLING.guidance, "classifier-free guidance; 1 turns it off", metavar="G")
    guidance_rescale: float = setting(
        PAPER_SAMPLING.guidance_rescale,
        "the share of what guidance adds to the spread that is taken off, 0 to 1",
        metavar="X",
    )
    seed: int = setting(0, "seed of the noise, of random merges and of the intervals", metavar="N")
    batch: int = setting(5, "images drawn, or questions asked, at once", metavar="N")
    zip_steps: int = setting(ZipSettings().steps, "ziplora: optimizer steps for each pair", metavar="N")
    composed_share: float = setting(
        COMPOSED_SHARE, "with -composed-start: the share of the steps that is composed", metavar="X"
    )
    joint_steps: int = setting(LoraSettings().steps, "joint: optimizer steps for each pair", metavar="N")

    def __post_init__(self) -> None:
        """Refuse values that no evaluation can have."""
        use_plain_numbers(self)
        check_at_least(1, images=self.images, steps=self.steps, batch=self.batch)
        check_at_least(1, zip_steps=self.zip_steps, joint_steps=self.joint_steps)
        check_seed(self.seed)
        check_composed_share(self.composed_share)
        check_from(1, guidance=self.guidance)
        check_share(guidance_rescale=self.guidance_rescale)


def default_evaluation(base: str) -> EvaluationSettings:
    """Return the defaults of a base by its name; SDXL, KOALA and any folder or hub id have the paper's."""
    return EvaluationSettings(**usual_sampling(base)._asdict(), joint_steps=default_settings(base).steps)
