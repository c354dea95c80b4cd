"""Write bundles of networks that are loaded already; `export.api` loads them first.

Each function writes its bundle to `out`. It raises InputError for what is not offered, and FailedCheck when an artifact
is not PyTorch's equal; `out` is then left as it was.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from export.bundle import NOT_RUN, BundleWriter, file_entry, new_bundle
from export.components.hypernet import hypernet_graph
from export.components.text_encoders import text_graph
from export.components.unet import unet_graph
from export.components.vae import vae_graph
from export.golden import golden_tokens, tokenizers, write_golden_image
from export.graph import Graph
from export.options import HypernetOptions, OnProgress, PipelineOptions, Report, Source, UNetOptions, ignore_progress
from export.rewrites import rewrite_for
from export.scheduling import scheduler_settings
from export.source import use_up
from export.targets import find_offer
from export.tolerance import PRECISIONS
from lorarar.base.attach import fitting_modules, fuse
from lorarar.base.components import digest_configs, fingerprint, pipeline_identity
from lorarar.base.sources import NETWORKS, require_channels
from lorarar.base.untrained import MAX_TOKENS
from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import LoadedPredictor
from lorarar.layout import Layout
from lorarar.lora import LoRA
from runtime_py.noise import NOISE, NOISE_TEXT
from runtime_py.scheduler import make_scheduler


def write_hypernet(
    loaded: LoadedPredictor,
    layout: Layout,
    options: HypernetOptions,
    out: Path,
    on_progress: OnProgress = ignore_progress,
) -> Report:
    """Write the bundle of a hypernetwork, which is left as it was."""
    target, _ = find_offer(options.target, "hypernet", options.precision, options.soc)
    facts = {"options": _decisive(options), "layout": layout.to_json(options.stack), "hypernet": loaded.sha256}
    graph = hypernet_graph(loaded.predictor, layout, options.stack, target.hypernet_form)
    with new_bundle(out, target, facts, on_progress) as bundle:
        bundle.require_valid([graph], options, layout, loaded)
        bundle.write(graph, options.precision)
        return bundle.finish(options, layout, loaded)


def write_unet(
    unet: Any, layout: Layout, options: UNetOptions, out: Path, on_progress: OnProgress = ignore_progress
) -> Report:
    """Write the bundle of a diffusers UNet. The UNet is used up: its weights are freed once they are written."""
    target, _ = find_offer(options.target, "unet", options.precision, options.soc)
    adapted = None if options.fused else layout
    facts = {
        "options": _decisive(replace(options, fused=None)),
        "adapters": adapted is not None,
        "layout": layout.to_json(options.stack),
        "unet": [fingerprint(unet), digest_configs(unet)],
        "fused": _digest(options.fused) if options.fused else "",
    }
    with new_bundle(out, target, facts, on_progress) as bundle:
        bundle.require_valid([_sizes(unet, adapted, options)], options, layout)
        if options.fused:
            fitting_modules(unet, options.fused)
        use_up(unet)
        if options.fused:
            fuse(unet, options.fused)
        _write_unet(bundle, unet, adapted, options)
        return bundle.finish(options, layout)


def write_pipeline(
    source: Source, options: PipelineOptions, out: Path, on_progress: OnProgress = ignore_progress
) -> Report:
    """Write the bundle of a whole pipeline. The pipeline is used up: each network is freed once it is written.

    All but its UNet are in fp32 from here on, whatever they were loaded in: diffusers rounds a prompt's states to the
    text encoders' type.
    """
    target, _ = find_offer(options.target, "unet", options.precision, options.soc, options.vae_precision)
    target.require("pipeline", options.precision)
    scheduler = scheduler_settings(source.pipeline.scheduler)
    make_scheduler(scheduler, options.steps)  # not all schedules take as many
    _require_fitting(source.pipeline)
    hypernet = hypernet_graph(source.hypernet.predictor, source.layout, options.stack, target.hypernet_form)
    for name in NETWORKS:
        network = getattr(source.pipeline, name).eval().requires_grad_(False)
        if name != "unet":
            network.float()
    with new_bundle(out, target, _facts(source, options), on_progress) as bundle:
        about: dict[str, Any] = {
            "pixels": options.size.pixels,
            "steps": options.steps,
            "guidance": options.guidance,
            "guidance_rescale": options.guidance_rescale,
            "negative": "zeros" if source.pipeline.config.force_zeros_for_empty_prompt else "empty",
            "scheduler": asdict(scheduler),
            "noise": {"name": NOISE, "text": NOISE_TEXT},
        }
        about["tokenizers"] = {
            name: _write_tokenizer(it, bundle.work.folder, name) for name, it in tokenizers(source.pipeline).items()
        }
        graphs = [hypernet, _sizes(source.pipeline.unet, source.layout, options)]
        bundle.require_valid(graphs, options, source.layout, source.hypernet, about)
        about["golden"] = _golden_image(bundle, source, options)
        _write_components(bundle, source, options, hypernet)
        return bundle.finish(options, source.layout, source.hypernet, about)


def _require_fitting(pipeline: Any) -> None:
    """Refuse parts that can't draw text to image together."""
    for name, tokenizer in tokenizers(pipeline).items():
        if tokenizer.model_max_length != MAX_TOKENS:
            length = f"the tokenizer of {name} gives {tokenizer.model_max_length} tokens"
            raise InputError(f"{length}, and SDXL's UNet takes {MAX_TOKENS}; give another `base`")
    require_channels(pipeline.unet, pipeline.vae)


def _write_components(bundle: BundleWriter, source: Source, options: PipelineOptions, hypernet: Graph) -> None:
    pipeline = source.pipeline
    use_up(pipeline.unet)
    precision = partial(bundle.target.precision_of, unet=options.precision, vae=options.vae_precision)
    bundle.write(hypernet, precision("hypernet"))
    for name, tokenizer in tokenizers(pipeline).items():
        model, tokens = getattr(pipeline, name), golden_tokens(tokenizer)
        graph = text_graph(name, model, tokens, source.layout, options.stack, bundle.target.adapter_form, owned=True)
        bundle.write(graph, precision(name))
        setattr(pipeline, name, None)
        del model, graph
    _write_unet(bundle, pipeline.unet, source.layout, options)
    graph = vae_graph(pipeline.vae, options.decoded, owned=True)
    bundle.write(graph, precision(graph.name), lambda: rewrite_for(bundle.target, pipeline.vae))


def _sizes(unet: Any, layout: Layout | None, options: UNetOptions | PipelineOptions) -> Graph:
    """Return a graph with the inputs of a UNet's, which is left alone."""
    return unet_graph(unet, layout, options.stack, options.size, module=nn.Identity())


def _write_unet(bundle: BundleWriter, unet: Any, layout: Layout | None, options: UNetOptions | PipelineOptions) -> None:
    graph = unet_graph(
        unet.eval().requires_grad_(False), layout, options.stack, options.size, bundle.target.adapter_form
    )
    # Only after the golden outputs are there, so that diffusers' own form is the reference.
    bundle.write(graph, options.precision, lambda: rewrite_for(bundle.target, unet))


def _golden_image(bundle: BundleWriter, source: Source, options: PipelineOptions) -> dict[str, Any]:
    """Return the manifest's entry of the golden image, which is drawn unless a stopped export has drawn it."""
    entry = bundle.work.kept("golden image")
    if entry is None:
        bundle.on_progress("drawing the golden image with diffusers")
        folder = bundle.work.folder
        path = folder / "golden" / "pipeline.safetensors"
        tile = options.decoded.latent
        told = write_golden_image(source.pipeline, source.layout, options.stack, options.size, path, tile)
        decoder = bundle.target.precision_of("vae_decoder", options.precision, options.vae_precision)
        least = max(options.precision, decoder, key=PRECISIONS.index)  # which bounds what the image can be
        allowed = bundle.target.require("pipeline", least)
        entry = {**file_entry(folder, path), **told, "tolerance": allowed.to_json(), "parity": NOT_RUN}
        bundle.work.keep("golden image", entry)
    return entry


def _digest(lora: LoRA) -> str:
    """Return a SHA-256 of a LoRA's layers, their names and factors."""
    found = hashlib.sha256()
    for name, layer in sorted(lora.layers.items()):
        for factor in (layer.down, layer.up):
            found.update(f"{name}{factor.shape}".encode() + np.ascontiguousarray(factor).tobytes())
    return found.hexdigest()


_FREE = ("unchecked", "steps", "guidance", "guidance_rescale")


def _decisive(options: HypernetOptions) -> dict[str, Any]:
    """Return the options that a file of the bundle depends on; the manifest, which has the others, is made anew."""
    return {name: value for name, value in asdict(options).items() if name not in _FREE}


def _facts(source: Source, options: PipelineOptions) -> dict[str, Any]:
    """Return all that a bundle depends on but for the toolchains, as JSON."""
    return {
        "options": _decisive(options),
        "layout": source.layout.to_json(options.stack),
        "hypernet": source.hypernet.sha256,
        "pipeline": pipeline_identity(source.pipeline),
        "tokenizers": [sorted(tokenizer.get_vocab().items()) for tokenizer in tokenizers(source.pipeline).values()],
    }


def _write_tokenizer(tokenizer: Any, folder: Path, name: str) -> dict[str, Any]:
    """Write a tokenizer's file and return its entry in the manifest. Raises InputError for a token that it lacks."""
    tokens = {"start": tokenizer.bos_token_id, "end": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    for kind, token in tokens.items():
        if token is None:
            raise InputError(f"the tokenizer of {name} has no {kind} token, which CLIP's have; give another `base`")
    path = folder / "tokenizers" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    tokenizer.backend_tokenizer.save(str(path))
    return {**file_entry(folder, path), "length": tokenizer.model_max_length, **tokens}
