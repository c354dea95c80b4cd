"""What the commands share that draw with bundles: their options, and what a bundle leaves out."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lorarar.command_line import Parser
from lorarar.composed import COMPOSED_SHARE, ComposedStart
from lorarar.errors import InputError

if TYPE_CHECKING:
    from runtime_py.pipeline import Pipeline, Request
    from runtime_py.session import Session


def add_drawing(parser: Parser) -> None:
    """Add the options of an image: what to draw, in how many steps, from which noise."""
    add = parser.add_argument
    add("--prompt", required=True, help="what to draw, with the LoRAs' own words: a sks dog in watercolor style")
    add("--steps", type=int, metavar="N", help="denoising steps (default: the bundle's)")
    add("--guidance", type=float, metavar="G", help="classifier-free guidance, 1 is off (default: the bundle's)")
    rescale = "take back this share, 0 to 1, of what guidance adds to a prediction's standard deviation"
    add("--guidance-rescale", type=float, metavar="X", help=f"{rescale} (default: the bundle's)")
    without = "guidance compares with a prediction without LoRAs (asymmetric guidance)"
    add("--guidance-without-lora", action="store_true", help=without)
    start = "composed start: the first steps with each LoRA alone, their answers put together; often shows more of both"
    share = f"share of the steps; default {COMPOSED_SHARE:g} where --subject is given, otherwise none"
    add("--composed-share", type=float, metavar="X", help=f"{start} ({share})")
    add("--subject", metavar="WORDS", help="composed start: the content's words in the prompt, such as 'a sks dog'")
    add("--subject-class", metavar="WORDS", help="composed start: the same without the token, such as 'a dog'")
    add("--seed", type=int, default=0, metavar="S", help="seed of the noise (default 0)")


def request_of(args: argparse.Namespace, pipeline: Pipeline, negative: str | None = None) -> Request:
    """Return what `add_drawing`'s options ask of a bundle's pipeline, which has its own values for what is left out."""
    return pipeline.request(
        args.prompt,
        seed=args.seed,
        steps=args.steps,
        guidance=args.guidance,
        negative=negative,
        guidance_without_lora=args.guidance_without_lora,
        composed=_composed(args),
        guidance_rescale=args.guidance_rescale,
    )


def carried_warnings(session: Session) -> list[str]:
    """Return what a bundle can't take of the loaded LoRAs, one sentence each."""
    return [warning for found in session.carried if (warning := found.warning())]


def _composed(args: argparse.Namespace) -> ComposedStart | None:
    """Return the composed start that was asked for, by naming the subject; none without."""
    if args.subject is None and args.subject_class is None:
        if args.composed_share is not None:
            raise InputError("`composed_share` is of a composed start; give `subject` and `subject_class` too")
        return None
    share = COMPOSED_SHARE if args.composed_share is None else args.composed_share
    return ComposedStart(args.subject or "", args.subject_class or "", share)
