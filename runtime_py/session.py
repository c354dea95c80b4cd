"""Sessions: LoRAs loaded into a bundle, merged and drawn with, as an app does it.

Loading stacks the LoRAs once. A merge then writes coefficients alone: the hypernetwork runs once for each pair, and a
strength, a block weight or another method is a multiplication.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, wraps
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import numpy as np

from lorarar.composed import ComposedStart
from lorarar.errors import InputError
from lorarar.layout import kind_of
from lorarar.lora import LoRA, LoraSource, as_lora
from lorarar.lora.names import architecture
from lorarar.lora.types import check_made
from lorarar.merging import RULES, Merged, align
from lorarar.merging.klora import KLoRA, check_common
from lorarar.merging.types import check_strengths
from lorarar.stack import Carried, Stack, carried
from runtime_py.backends import Runner, Runners
from runtime_py.blend import (
    Blender,
    BlockWeights,
    ByStep,
    Factors,
    FileMerge,
    Strengths,
    blends_apart,
    check_coefficients,
)
from runtime_py.guidance import Blend, Coefficients, Inputs
from runtime_py.pipeline import Drawn, OnStep, Pipeline, Request
from runtime_py.schedule import Schedule, checked_by_step
from runtime_py.stages import OnStage

if TYPE_CHECKING:
    from PIL.Image import Image

    from runtime_py.bundle import Bundle

KEEP_BYTES = 2**30
"""The largest bundle whose components stay loaded by default. The miniature has 50 MB, KOALA-700M in fp16 3.4 GB."""
NONE_LOADED = "no LoRA is loaded; call load([content, style]) first"
MERGES = ("learned", "direct", "k-lora")
"""The methods of `Session.merge`: the bundle's hypernetwork, the plain average, and at each step one LoRA a layer."""
GIVEN = "given coefficients"
"""What the method of a merge by coefficients that were known already is called."""

P = ParamSpec("P")
R = TypeVar("R")


def _one_at_a_time(
    method: Callable[Concatenate[Session, P], R],
) -> Callable[Concatenate[Session, P], R]:
    """Let a method of a session wait until another thread has finished one."""

    @wraps(method)
    def waiting(self: Session, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._busy:
            return method(self, *args, **kwargs)

    return waiting


class Session:
    """A bundle at work.

    `threads` None leaves their number to the runtime; coreml, coreai and qnn choose it in any case. With `keep`, every
    component that was run stays loaded, and the next image or merge starts at once; without, each is freed after its
    use and only the UNet stays for a whole image, as a phone must do with a large bundle. None keeps the components of
    bundles up to KEEP_BYTES. Tokenizers always stay. Loading, merging and drawing by several threads go one after the
    other: most runtimes take one run at a time.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None, keep: bool | None = None) -> None:
        self.bundle = bundle
        self._busy = RLock()  # not a plain lock: `on_step` may merge for the next image
        self.notes: tuple[str, ...] = ()
        """What the last merge, and the image drawn since, had to leave out, one sentence each."""
        self._runners = Runners(bundle, threads, bundle.nbytes <= KEEP_BYTES if keep is None else keep)
        self._shares: Future[tuple[Carried, ...]] | None = None
        self._loras: tuple[LoRA, ...] = ()
        self._stack: Stack | None = None
        self._current: Blender | None = None
        self._plan: KLoRA | None = None
        self._set((), None)

    @cached_property
    def pipeline(self) -> Pipeline:
        """What draws. Raises InputError for a bundle that holds no whole pipeline."""
        return Pipeline(self.bundle, self._runners)

    def open(self, name: str) -> Runner:
        """Load a component now, and return it; it stays where components are kept."""
        return self._runners(name)

    @property
    @_one_at_a_time
    def stack(self) -> Stack:
        """The loaded LoRAs as the artifacts take them. Raises InputError where they do not fit."""
        if self._stack is None:
            self._stack = self.bundle.stacked(self._loras)
        return self._stack

    @property
    def coefficients(self) -> Coefficients:
        """The coefficients of the last merge, which the next one writes into: (N, K, in) of every group.

        Raises InputError for K-LoRA, whose coefficients are others in each step.
        """
        values = self._blended().values
        if self._method == "k-lora":
            raise InputError("K-LoRA's coefficients are others in each step; merge with another method")
        return values

    @property
    def carried(self) -> tuple[Carried, ...]:
        """What share of each loaded LoRA's ‖ΔW‖² is carried, by part; measured in the background since `load`."""
        shares = self._shares  # which another thread's `load` may change
        return () if shares is None else shares.result()

    @_one_at_a_time
    def load(self, loras: Sequence[LoraSource]) -> None:
        """Choose the LoRAs, in the place of those chosen before: a content and a style, then others beside them.

        Each is a LoRA, the path of a file or a PEFT folder, or a state dict; none draws with the base. Raises
        InputError for more than the bundle takes, for ranks that it has no room for, for one that is of another base
        or can't be read.
        """
        if isinstance(loras, (str, Path, LoRA, Mapping)) or not isinstance(loras, Iterable):
            raise InputError("`loras` are a list: a content and a style LoRA, one LoRA alone, or none")
        given = tuple(loras)
        read = tuple(map(as_lora, given))
        for lora in (each for each in given if isinstance(each, LoRA)):
            check_made(lora)
        self._set(read, self.bundle.stacked(read))
        pool, layout = ThreadPoolExecutor(1, "shares"), self.bundle.layout
        self._shares = pool.submit(lambda: tuple(carried(lora, layout) for lora in read))
        pool.shutdown(wait=False)

    @_one_at_a_time
    def merge(
        self,
        method: str = "learned",
        *,
        strengths: Sequence[float] | None = None,
        block_weights: BlockWeights | None = None,
        coefficients: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Merge the loaded LoRAs; what is drawn from now on has them.

        `learned` takes the bundle's hypernetwork, `direct` the average, `k-lora` one of the two in each layer and step.
        `coefficients` are others that are known already, such as ZipLoRA's: (2, in) by full layer name, at strengths of
        1, in the place of the hypernetwork's. `strengths` multiply each LoRA's share, 1 is the paper's; `block_weights`
        multiply them again in the blocks that they name. Raises InputError when no LoRA is loaded, for LoRAs that do
        not fit each other, for numbers that are not finite, and for names of layers and blocks that there are not.
        """
        if method not in MERGES:
            raise InputError(f"`method` is {method!r}; a session has {', '.join(MERGES)}")
        if not self._loras:
            raise InputError(NONE_LOADED)
        if method == "k-lora" and len(self._loras) < 2:
            raise InputError("K-LoRA picks one of two LoRAs; load a content and a style LoRA")
        if method == "k-lora":
            check_common(*self._loras[:2])
        if coefficients is not None and method != "learned":
            raise InputError(f"`coefficients` mean nothing to {method}; leave one of them out")
        if coefficients is not None and len(self._loras) < 2:
            raise InputError("`coefficients` are of two LoRAs; load a content and a style LoRA")
        for name, each in (("block_weights", block_weights), ("coefficients", coefficients)):
            if not isinstance(each, Mapping | None):
                raise InputError(f"`{name}` are {each!r:.100}; give a dict, by the names of blocks or layers")
        given = check_strengths((1.0,) * len(self._loras) if strengths is None else strengths, len(self._loras))
        blender = self._blender(method, coefficients)
        blender.write(given, block_weights)
        self._current, self._method = blender, method if coefficients is None else GIVEN
        self._strengths, self._block_weights = given, dict(block_weights or {})
        names = " and ".join(Path(lora.source).name for lora in self._loras)
        what = f"{method} merge of {names}" if coefficients is None else f"merge of {names} by {GIVEN}"
        what = what if len(self._loras) > 1 else names
        self._how = f"{what}, strengths {', '.join(f'{strength:g}' for strength in given)}"
        self.notes = self._merge_notes

    @_one_at_a_time
    def merged(self) -> Merged:
        """Return the merge as an ordinary LoRA, whole: also the layers that the UNet's adapter leaves out.

        LoRAs that were not merged yet are merged with `merge`'s defaults. Raises InputError as `merge`, and for K-LoRA,
        which is no LoRA.
        """
        if not self._loras:
            raise InputError(NONE_LOADED)
        blender = self._blended()
        if self._method == "k-lora":
            raise InputError(
                "K-LoRA takes another LoRA from step to step, so it is no LoRA file; merge with another method"
            )
        file = FileMerge(blender, Factors(self.stack, self._strengths, self._block_weights))
        lora = LoRA(file.layers(), source="bundle merge", metadata=self._facts())
        return Merged(lora, file.kinds(), file.learned() or None, None, self._merge_notes)

    def generate(
        self,
        prompt: str,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str | None = None,
        guidance_without_lora: bool = False,
        composed: ComposedStart | None = None,
        guidance_rescale: float | None = None,
        schedule: Schedule | None = None,
        on_step: OnStep = lambda *_: None,
    ) -> Image:
        """Draw an image: the base where no LoRA is loaded, else the base with the LoRAs.

        LoRAs that were loaded and not merged yet are merged with `merge`'s defaults. What is None is the bundle's own.
        `guidance_rescale`, 0 to 1, is the share taken back of what guidance adds to a prediction's standard deviation.
        With `guidance_without_lora` what guidance compares with is predicted without LoRAs (CRAFT-LoRA's ACFG). With a
        start that is `composed`, the first steps use no merge: both LoRAs' own predictions are put together, in twice
        the passes. `schedule` gives strengths step by step, in the place of the merge's. `on_step(done, steps,
        latents)` is called after each step, for progress and previews. The same seed gives the same image on every
        target, up to its precision. Raises InputError for a number out of its range, a bundle that can't draw, a
        composed start without two LoRAs or its subject.
        """
        from PIL import Image

        request = self.pipeline.request(
            prompt,
            seed=seed,
            steps=steps,
            guidance=guidance,
            negative=negative,
            guidance_without_lora=guidance_without_lora,
            composed=composed,
            guidance_rescale=guidance_rescale,
        )
        return Image.fromarray(self.draw(request, schedule, on_step=on_step).image)

    @_one_at_a_time
    def draw(
        self,
        request: Request,
        schedule: Schedule | None = None,
        on_step: OnStep = lambda *_: None,
        on_stage: OnStage = lambda *_: None,
    ) -> Drawn:
        """Draw a request of `pipeline.request` as `generate` does; the result also tells where the time went."""
        by_step = None if schedule is None else self._by_step(schedule)
        if self._loras and self._current is None:
            on_stage("merging", 0, 1)
        return self._draw(request, [self._blend(by_step)], [by_step or self._strengths], on_step, on_stage)[0]

    @_one_at_a_time
    def draw_strengths(
        self,
        request: Request,
        strengths: Sequence[Sequence[float]],
        on_stage: OnStage = lambda *_: None,
    ) -> list[Drawn]:
        """Draw a request once for each of these strengths, as many at once as the UNet takes rows."""
        listed = strengths if isinstance(strengths, Iterable) and not isinstance(strengths, str) else ()
        checked = [check_strengths(given, len(self._loras)) for given in listed]
        if not checked:
            raise InputError("`strengths` are none; give those of one image or more")
        return self._draw(request, [self._blend_at(given) for given in checked], checked, lambda *_: None, on_stage)

    def _draw(
        self,
        request: Request,
        blends: Sequence[Blend],
        strengths: Sequence[Strengths],
        on_step: OnStep,
        on_stage: OnStage,
    ) -> list[Drawn]:
        apart = [] if request.composed is None else blends_apart(self.stack, strengths, self._block_weights)
        drawn = self.pipeline.draw(request, Inputs(self.stack.inputs, blends, apart), on_stage, on_step)
        self.notes = (*self._merge_notes, *drawn[0].notes)
        return drawn

    def _by_step(self, schedule: Schedule) -> ByStep:
        """Check a schedule for the loaded LoRAs and their merge."""
        if not self._loras:
            raise InputError(NONE_LOADED)
        if self._method == "k-lora":
            raise InputError("`schedule` means nothing to k-lora, which has one of its own; leave it out")
        return checked_by_step(schedule, len(self._loras))

    def _blend(self, by_step: ByStep | None) -> Blend:
        """Return the coefficients to draw with: the merge's, or those of each step."""
        blender, weights = self._blended(), self._block_weights
        if by_step is not None:
            return lambda step, steps: blender.at(by_step(step, steps), weights)
        return self._blend_at(self._strengths)

    def _blend_at(self, strengths: Sequence[float]) -> Blend:
        """Return the merge's coefficients at these strengths, of which a later merge changes nothing.

        K-LoRA's are of each step.
        """
        blender, weights = self._blended(), self._block_weights
        if self._method != "k-lora":
            return blender.at(strengths, weights)
        plan = self._plan = self._plan or KLoRA.plan(self._loras[0], self._loras[1])

        def picked(step: int, steps: int) -> Coefficients:
            picks = {name: 0 if plan.picks_content(name, step, steps) else 1 for name in plan.ratios}
            return blender.at(strengths, weights, picks)

        return picked

    def _blended(self) -> Blender:
        """Return the last merge; where there was none, one with the defaults, and without LoRAs nothing."""
        if self._current is None:
            if self._loras:
                self.merge()
            else:
                self._current = Blender(self.stack, 1.0)
        assert self._current is not None
        return self._current

    def _blender(self, method: str, coefficients: Mapping[str, np.ndarray] | None) -> Blender:
        """Return a method's unit coefficients, which are made once for the loaded LoRAs."""
        if coefficients is None and method in self._made:
            return self._made[method]
        if len(self._loras) > 1:
            others = (text for lora in self._loras[2:] for text in lora.warnings)
            self._merge_notes = (*align(self._loras[0], self._loras[1], self.bundle.layout).warnings, *others)
        rule = RULES[self._rule() if method == "learned" else "average"]
        if method != "learned" or len(self._loras) < 2:
            made = Blender(self.stack, rule)
        elif coefficients is None:
            made = Blender(self.stack, rule, self._predict())
        else:
            return Blender(self.stack, rule, check_coefficients(coefficients, self.stack))
        self._made[method] = made
        return made

    def _predict(self) -> dict[str, np.ndarray]:
        """Run the hypernetwork on the stack, and return the coefficients (2, in) of the layers that it has learned."""
        if "hypernet" not in self.bundle.manifest["components"]:
            raise InputError(f"{self.bundle.path}: the bundle has no hypernet; merge by `direct`, which needs none")
        component, inputs = self.bundle.component("hypernet"), self.stack.inputs
        outputs = self._runners("hypernet").run({spec.name: inputs[spec.name] for spec in component.inputs})
        if not all(np.isfinite(values).all() for values in outputs.values()):
            if not component.is_half:
                raise InputError("the coefficients are not finite for these LoRAs; merge them by `direct`")
            raise InputError("the coefficients are not finite in this bundle's precision; use fp32")
        kinds = self.bundle.manifest["hypernetwork"]["learned"]
        return {
            layer: outputs[group.coefficients][row, :2].astype(np.float32)
            for layer, (group, row) in self.bundle.layout.places.items()
            if kind_of(layer) in kinds
        }

    def _rule(self) -> str:
        """Name the rule for the layers that no coefficient is known of."""
        network = self.bundle.manifest.get("hypernetwork")
        return str(network["kv_rule"]) if network else "average"

    def _facts(self) -> dict[str, str]:
        """Return what a merged file says about itself."""
        manifest, names = self.bundle.manifest, [Path(lora.source).name for lora in self._loras]
        facts = {"toolkit_version": manifest["toolkit_version"], "base": manifest["base"], "method": self._method}
        facts["architecture"] = architecture(self.bundle.layout.layers)
        if self._method == "learned" and len(names) > 1:
            network = manifest["hypernetwork"]
            facts |= {"hypernet_source": network["source"], "hypernet_sha256": network["sha256"]}
        if self._method in ("learned", GIVEN) and len(names) > 1:
            facts["rule"] = self._rule()
        roles = ["content", "style", *(f"lora_{number}" for number in range(3, len(names) + 1))]
        for role, name, strength in zip(roles, names, self._strengths, strict=False):
            facts |= {role: name, f"{role}_scale": str(strength)}
        if self._block_weights:
            facts["block_weights"] = str(self._block_weights)
        return {f"lorarar_{name}": str(text) for name, text in facts.items()}

    def _set(self, loras: tuple[LoRA, ...], stack: Stack | None) -> None:
        """Change the LoRAs, and forget what was made of those before."""
        self._loras, self._stack = loras, stack
        self._made: dict[str, Blender] = {}
        self._current, self._plan = None, None
        self._method, self._strengths, self._block_weights = "learned", (1.0,) * len(loras), {}
        self._shares = None
        self._how = f"{len(loras)} LoRAs, not merged yet" if loras else "the base"
        self._merge_notes = self.notes = tuple(text for lora in loras for text in lora.warnings)

    def __repr__(self) -> str:
        loaded = f"; {', '.join(self._runners.loaded)} loaded" if self._runners.loaded else ""
        return f"Session({str(self.bundle.path)!r}: {self._how}{loaded})"
