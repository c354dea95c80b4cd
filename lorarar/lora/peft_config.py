"""PEFT's scaling (rank, alpha and their patterns) from adapter_config.json or a file's metadata. Numpy only."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorarar.errors import InputError
from lorarar.lora.dialects import CONVERT
from lorarar.lora.safetensors_file import parse_json
from lorarar.lora.tensors import shorten

METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers keeps `{component}.{field of LoraConfig}`; of a single model, the fields alone."""
_MAX_QUANTIFIERS = 2  # of a pattern: more could take minutes to match, and the file is a stranger's
_MAX_PATTERN = 500
_MAX_PATTERNS = 10_000  # SDXL and its text encoders have 1,000 modules; compiling this many takes up to 10 s
_MATCH_SECONDS = 3.0  # of this thread on the processor: a busy machine refuses nothing that a quiet one takes
# Kind of adapter → what its configuration calls alpha. All but the first can only be made plain.
_ALPHAS = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}
# Initialisations that change the base's weights: the saved factors alone are then not the update.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# What a LoRA's configuration may ask for besides, which makes another ΔW of the same factors.
_VARIANTS = {
    "kasa_config": "KaSA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "aLoRA",
    "arrow_config": "Arrow",
}
# Compiled once: there may be more than the 512 that `re` keeps, and each module looks at all of them.
_Patterns = Sequence[tuple[re.Pattern[str], float]]


@dataclass
class PeftScaling:
    """The scale alpha/r (alpha/√r with rsLoRA) that PEFT gives a module.

    Patterns give a value to a name, a suffix of one or a regular expression.
    """

    source: str
    rank: float = 8.0
    alpha: float = 8.0
    rank_pattern: _Patterns = ()
    alpha_pattern: _Patterns = ()
    rslora: bool = False
    _spent: float = 0.0  # seconds of matching, on the processor

    def scale(self, module: str, rank: int | None) -> float:
        """Return the factor of ΔW for a module (its name inside the component) whose factors have `rank`.

        The rank is None where the factors have none, as those of a LoKr may. Raises InputError when the configured rank
        is another one, or when a pattern takes too long.
        """
        configured = self._find(self.rank_pattern, module, self.rank)
        if rank is not None and configured != rank:
            raise InputError(
                f"{self.source}: the configuration gives '{shorten(module)}' rank {configured:g} but its tensors have "
                f"rank {rank}; the two are not of one LoRA, get the file again"
            )
        alpha = self._find(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(configured) if self.rslora else configured)

    def _find(self, patterns: _Patterns, module: str, default: float) -> float:
        """Apply PEFT's rule: the first pattern that matches the whole name or its part after a dot."""
        start, worked = time.monotonic(), time.thread_time()
        left = _MATCH_SECONDS - self._spent
        try:
            for pattern, value in patterns:
                if pattern.match(module):
                    return value
                # The processor's clock takes ten times as long to read, so it is asked where the other says so first.
                if time.monotonic() - start > left and time.thread_time() - worked > left:
                    raise InputError(f"{self.source}: its patterns take too long to match; write them as plain names")
        finally:
            self._spent += time.thread_time() - worked
        return default


def parse_config(config: Mapping[str, Any], source: str, plain: bool = True) -> PeftScaling:
    """Return the scaling that a configuration's fields state; missing fields have PEFT's defaults (r = alpha = 8).

    Raises InputError for other methods than LoRA and for DoRA, where `plain` is False for what can't be made plain
    alone, and for values that are no ranks, alphas or patterns.
    """
    kind = config.get("peft_type", "LORA")
    kind = str(getattr(kind, "value", kind)).upper()
    if kind not in _ALPHAS or (plain and kind != "LORA"):
        advice = CONVERT if kind in _ALPHAS else "train it as a LoRA instead"
        raise InputError(f"{source} is a PEFT {shorten(kind, 40)} adapter, not a LoRA; {advice}")
    if plain and config.get("use_dora"):
        raise InputError(f"{source} is a DoRA, which no plain LoRA equals; train it with use_dora=False, or {CONVERT}")
    variant = next((name for key, name in _VARIANTS.items() if config.get(key)), None)
    if variant is not None:
        raise InputError(f"{source} is a PEFT {variant} adapter, not a LoRA; train it as a LoRA instead")
    init = str(config.get("init_lora_weights", "")).lower()
    if init.startswith(_CHANGED_BASE):
        raise InputError(
            f"{source} was trained on a changed base ({shorten(init, 40)}); convert it when saving "
            "(PEFT's path_initial_model_for_weight_conversion)"
        )
    return PeftScaling(
        source,
        rank=_number(config.get("r", 8), "r", source, whole=True),
        alpha=_number(config.get(_ALPHAS[kind], 8), _ALPHAS[kind], source),
        rank_pattern=_patterns(config.get("rank_pattern"), "rank_pattern", source, whole=True),
        alpha_pattern=_patterns(config.get("alpha_pattern"), "alpha_pattern", source),
        rslora=bool(config.get("use_rslora", False)),
    )


def metadata_scalings(metadata: Mapping[str, str], source: str, plain: bool = True) -> dict[str, PeftScaling]:
    """Return the scaling of each component from the metadata that diffusers writes; {} when the file has none.

    What `save_lora_adapter` of a single model writes names no component: its scaling is that of "". `plain` is that of
    `parse_config`.
    """
    if METADATA_KEY not in metadata:
        return {}
    fields = parse_json(metadata[METADATA_KEY].encode(), f"{source}: its {METADATA_KEY}")
    if not fields.keys().isdisjoint(("r", "peft_type")):
        return {"": parse_config(fields, source, plain)}
    components: dict[str, dict[str, Any]] = {}
    for key, value in fields.items():
        component, _, name = key.partition(".")
        components.setdefault(component, {})[name] = value
    return {name: parse_config(config, source, plain) for name, config in components.items()}


def config_component(config: Mapping[str, Any]) -> str:
    """Return the component that a PEFT configuration names (by its model's class), or "" when it doesn't."""
    mapping = config.get("auto_mapping")
    name = mapping.get("base_model_class") if isinstance(mapping, Mapping) else None
    return {
        "UNet2DConditionModel": "unet",
        "CLIPTextModel": "text_encoder",
        "CLIPTextModelWithProjection": "text_encoder_2",
    }.get(str(name), "")


def _number(value: Any, name: str, source: str, whole: bool = False) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e9
    if not good or (whole and (value < 1 or value != int(value))):
        raise InputError(
            f"{source}: {name} is {shorten(json.dumps(value, default=str), 40)}; it must be "
            f"{'a whole number of at least 1' if whole else 'a finite number'}"
        )
    return float(value)


def _patterns(value: Any, name: str, source: str, whole: bool = False) -> _Patterns:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise InputError(f"{source}: {name} must map module names to numbers; correct the configuration")
    if len(value) > _MAX_PATTERNS:
        raise InputError(
            f"{source}: {name} has {len(value):,} patterns, more than SDXL has modules; give {_MAX_PATTERNS:,} at most"
        )
    found = []
    for pattern, number in value.items():
        compiled = _compiled(pattern)
        if compiled is None:
            raise InputError(
                f"{source}: {name} has the pattern '{shorten(str(pattern))}', which is invalid or too complex; "
                "write plain module names"
            )
        found.append((compiled, _number(number, f"{name} of '{shorten(pattern)}'", source, whole)))
    return found


def _compiled(pattern: Any) -> re.Pattern[str] | None:
    """Compile a pattern that is valid and quick to match, else return None; its length is looked at before."""
    if not isinstance(pattern, str) or len(pattern) > _MAX_PATTERN:
        return None
    # A quantified group can take exponential time however few quantifiers there are.
    if len(re.findall(r"[*+{?]", pattern)) > _MAX_QUANTIFIERS or re.search(r"\)[*+{?]|\\\d|\(\?P=", pattern):
        return None
    try:
        return re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError):
        return None
