"""SSR-Merge (arXiv 2606.10617): a router between the two factors, best for what each LoRA does under its own prompt.

With A = [down_c; down_s] and B = [up_c, up_s], it minimises Σ_k ‖B·R·A·X_k − up_k·down_k·X_k‖² over R, layer by layer.
X_k is what the layer gets under LoRA k's prompt. Where both get the same, R = ½ and the merge is the average: all that
it gains comes from prompts that excite different inputs. `lorarar.merging.ssr_grams` measures those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from lorarar.errors import InputError
from lorarar.lora import LoraLayer, concatenate
from lorarar.merging.exact import direct
from lorarar.merging.types import METHOD, RULE, LayerPair, MergedLayer, MergeOptions

RIDGE = 1e-4
"""Added to the mean Gram matrix's diagonal, as the authors' code does: to that of the factors as they are in the file.
The same ΔW with a `down` of a tenth is merged otherwise, since the ridge then weighs 100 times as much."""


def ssr(pairs: Sequence[LayerPair], options: MergeOptions) -> Iterator[MergedLayer]:
    """Merge by ΔW_m = [up_c, up_s]·R·[down_c; down_s], with the router R of `options.grams`; exact, of rank r_c + r_s.

    Layers without a Gram matrix follow the rule. The scales multiply ΔW_c and ΔW_s before. Raises InputError when
    `options.grams` is None, and for a layer whose router can't be solved for.
    """
    if options.grams is None:
        raise InputError(
            "ssr looks at what each LoRA does under its own prompt: give `content_prompt` and `style_prompt`"
        )
    routed = [pair for pair in pairs if pair.name in options.grams]
    for pair in routed:
        yield MergedLayer(pair.name, _routed(pair, options.grams[pair.name], options.scales), METHOD)
    yield from direct([pair for pair in pairs if pair.name not in options.grams], options, RULE)


def router(grams: Float[np.ndarray, "2 r r"], content_rank: int) -> Float[np.ndarray, "r r"]:
    """Return R = Q(G + λI)⁻¹ in float64, of each LoRA's mean z·zᵀ, z = [down_c; down_s]·x; G is their sum.

    Q has G_c's first `content_rank` rows, and G_s's others: what the LoRA alone would do under its prompt.
    """
    content, style = np.asarray(grams, np.float64)
    wanted = np.concatenate((content[:content_rank], style[content_rank:]))
    ridge = RIDGE * np.eye(len(content))
    return np.linalg.solve(content + style + ridge, wanted.T).T


def _routed(pair: LayerPair, grams: Float[np.ndarray, "2 r r"], scales: tuple[float, float]) -> LoraLayer:
    joined = concatenate((pair.content, pair.style), scales).load()
    try:
        up = joined.up.astype(np.float64) @ router(grams, pair.content.rank)
    except np.linalg.LinAlgError:
        raise InputError(
            f"{pair.name}: ssr can't tell the two LoRAs' `down` rows apart: they depend on each other, and are too "
            "large for its ridge; take another method"
        ) from None
    return LoraLayer(joined.down, up.astype(np.float32))
