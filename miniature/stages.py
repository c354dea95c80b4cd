"""Make the miniature's parts: each stage of its build, resumed where it was stopped."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors.torch import load_file

from lorarar.base.names import DATASET_FOLDER, HYPERNET_FILE, JUDGE_FOLDER, MINIATURE, MINIATURE_FOLDER
from lorarar.base.untrained import NETWORKS, Sizes, build_tokenizer, new_pipeline
from lorarar.errors import InputError
from lorarar.evaluation.generate import Sampling
from lorarar.evaluation.settings import default_evaluation
from lorarar.files import atomic_file, atomic_folder, file_digest, read_json, write_tensors
from lorarar.machine import machine_name
from lorarar.toolchains import quiet_toolchains
from lorarar.training.dataset import DATASET_FILE, DEFAULT_SPLIT, read_dataset
from lorarar.training.dataset_loras import JobSettings, missing_jobs, train_jobs
from lorarar.training.history import HistoryRow
from lorarar.training.hyper_settings import HyperSettings, default_hyper_settings
from lorarar.training.launch import BaseLoading, command_process, with_fastest_precision
from lorarar.training.settings import LoraSettings, default_settings
from lorarar.training.trainer import load_inputs, train_predictor
from miniature.base import BATCH, LONGER, ROUNDS, Captioned, tokenize, train_base
from miniature.base import SCHEDULE as BASE_SCHEDULE
from miniature.catalogue import fresh_subject
from miniature.judge_training import build_judge
from miniature.loop import Schedule
from miniature.pipelines import open_pipeline, save_trained, steps_of, trainings_of, write_pipeline
from miniature.population import caption, population
from miniature.progress import Report, silent
from miniature.reading import CAPTIONS, train_reading
from miniature.reading import SCHEDULE as READING_SCHEDULE
from miniature.references import style_words, write_dataset
from miniature.samples import draw_captions, sheet
from miniature.styles import FAMILIES
from miniature.subjects import KINDS
from miniature.vae import SCHEDULE as VAE_SCHEDULE
from miniature.vae import encode_all, train_vae

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

DRAWINGS = 40_000
# Half of a subject's examples are under words for styles, or a prompt with such words loses it. Rank 6 in the place
# of 8 is a quarter less to download.
CONTENT_LORAS = replace(default_settings(MINIATURE), rank=6, styled=0.5)
# A style is one image. Trained for as long as a subject, its LoRA draws that image whatever the prompt. All numbers
# were chosen on the validation part, by each LoRA alone and by both together.
STYLE_LORAS = replace(default_settings(MINIATURE), steps=200, learning_rate=7e-4)
SIZES = Sizes()
LORA_DTYPE = "fp16"
TIMES = "times.json"
PLAN = "plan.json"
SAMPLES = "samples.png"
COLUMNS = 9  # of the sample grid


@dataclass(frozen=True)
class BuildPlan:
    """A build: what is made and where. Everything follows from these numbers and the code."""

    work: Path  # drawings, states of training, and the miniature itself until it is whole
    output: Path  # the diffusers folder that the whole one replaces
    seed: int = 0
    drawings: int = DRAWINGS
    sizes: Sizes = SIZES
    vae: Schedule = VAE_SCHEDULE
    reading: Schedule = READING_SCHEDULE
    captions: int = CAPTIONS  # that the text encoders learn to read
    base: Schedule = BASE_SCHEDULE
    longer: Schedule = LONGER
    rounds: int = ROUNDS
    batch: int = BATCH  # drawings a step of the UNet
    device: str = "cpu"  # of the trainings of VAE, UNet and judge; LoRAs and hypernetwork take a GPU where there is one
    start: Path | None = None  # a pipeline whose networks are taken in the place of new ones
    compiled: bool = True
    contents: LoraSettings = CONTENT_LORAS
    styles: LoraSettings = STYLE_LORAS
    hyper: HyperSettings = field(default_factory=lambda: default_hyper_settings(MINIATURE))
    workers: int = 2  # LoRAs trained at a time
    report: Report = silent

    def lora_settings(self) -> dict[str, LoraSettings]:
        """Return the settings of the contents' LoRAs and of the styles', with the build's seed."""
        return {"contents": replace(self.contents, seed=self.seed), "styles": replace(self.styles, seed=self.seed)}

    @property
    def made(self) -> Path:
        """Return where the miniature grows. The output folder holds another build, which stays in use until the end."""
        return self.work / MINIATURE

    @property
    def times(self) -> Path:
        """Return the file of the seconds that each stage has taken so far, over all the runs it took."""
        return self.made / TIMES

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds spent here to the stage's, also when it is interrupted."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = self.seconds()
            seconds[stage] = round(seconds.get(stage, 0.0) + time.monotonic() - start, 1)
            with atomic_file(self.times) as temporary:
                temporary.write_text(json.dumps(seconds, indent=1))

    def seconds(self) -> dict[str, float]:
        """Return the seconds by stage; each round of further training has its own."""
        return json.loads(self.times.read_text()) if self.times.is_file() else {}

    def spent(self, stage: str) -> float | None:
        """Return the seconds of a stage with all its rounds; None for one that has not run."""
        parts = [seconds for name, seconds in self.seconds().items() if name.partition("-")[0] == stage]
        return sum(parts) if parts else None


def base_of(folder: Path) -> str:
    """Return the name of the base in a folder: the shipped miniature has one, any other is its path."""
    return MINIATURE if folder.resolve() == MINIATURE_FOLDER else str(folder)


def claim_work(plan: BuildPlan) -> None:
    """Note in the work folder what is built there; refuse a folder of another plan, whose results would be taken over.

    Compiling is no part of it: a run without a compiler may go on with what one with it began.
    """
    path = plan.work / PLAN
    if not path.is_file() and plan.work.is_dir() and any(item.is_dir() for item in plan.work.iterdir()):
        raise InputError(f"{plan.work} holds other things, or a build without its {PLAN}; give another `work`")
    left_out = {"work", "output", "compiled", "device", "report"}
    kept = asdict(replace(plan, report=silent)) | {"weights": digests_of(plan.start) if plan.start else []}
    found = noted(path, {name: value for name, value in kept.items() if name not in left_out})
    if found:
        other = "; ".join(f"{name} {there} there, {here} here" for name, (there, here) in found.items())
        raise InputError(f"{plan.work} holds another build ({other}); give another `work`, or remove it")


def digests_of(pipeline: Path) -> list[str]:
    """Return the SHA-256 of the files that make a pipeline's images, in their paths' order: weights, configurations."""
    files = [file for part in (*NETWORKS, "scheduler") for file in (pipeline / part).glob("*")]
    return [file_digest(file) for file in sorted(files) if file.suffix in (".safetensors", ".json")]


def noted(path: Path, about: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Write a note of what a folder is for, unless one is there; return what that one says otherwise: there, here."""
    text = json.dumps(about, default=str)
    if not path.is_file():
        with atomic_file(path) as temporary:
            temporary.write_text(text)
    here, mend = json.loads(text), f"name another folder, or remove {path.parent}"
    there = read_json(path, what="the note of what a folder is for", mend=mend, schema={"type": "object"})
    return {name: (there.get(name), value) for name, value in here.items() if there.get(name) != value}


def drawings(plan: BuildPlan) -> tuple[UInt8[np.ndarray, "n size size 3"], list[str]]:
    """Return the captioned population, drawn or read back."""
    with plan.timed("population"):
        return population(plan.seed, plan.drawings, plan.work / "population", report=plan.report)


def draw_population(plan: BuildPlan) -> Path:
    """Draw the captioned population; return its folder."""
    drawings(plan)
    return plan.work / "population"


def autoencoder(plan: BuildPlan) -> Path:
    """Train the VAE of a new pipeline; return the folder that holds it in fp32."""
    if plan.start is not None:
        return plan.start
    folder = plan.work / "autoencoder"
    if folder.is_dir():
        return folder
    images, captions = drawings(plan)
    with plan.timed("autoencoder"):
        pipeline = new_pipeline(plan.sizes, build_tokenizer(captions), plan.seed)
        state = plan.work / "autoencoder.state"
        losses = train_vae(pipeline.vae, images, state, plan.seed, plan.vae, plan.report, plan.device)
    save_trained(pipeline, folder, losses, [_training(plan, "autoencoder", plan.vae)])
    state.unlink()
    return folder


def reading(plan: BuildPlan) -> Path:
    """Train the text encoders to read, unless a given pipeline's can; return the pipeline's folder, in fp32."""
    start = autoencoder(plan)
    folder = plan.work / "reading"
    if any(training["stage"] == "reading" for training in trainings_of(start)):
        return start
    if folder.is_dir():
        return folder
    pipeline = open_pipeline(start)
    with plan.timed("reading"):
        state = plan.work / "reading.state"
        losses = train_reading(pipeline, state, plan.seed, plan.reading, plan.captions, plan.device, plan.report)
    save_trained(pipeline, folder, losses, [*trainings_of(start), _training(plan, "reading", plan.reading)])
    state.unlink()
    return folder


def base(plan: BuildPlan) -> Path:
    """Train the UNet; return the pipeline's folder, in fp32."""
    if plan.start is not None:
        return reading(plan)
    return _train_unet(plan, "base", reading(plan), plan.base)


def longer(plan: BuildPlan) -> Path:
    """Train the UNet further, round by round; return the last round's folder, in fp32."""
    folder = base(plan)
    for number in range(1, plan.rounds + 1):
        folder = _train_unet(plan, f"longer-{number}", folder, plan.longer)
    return folder


def _train_unet(plan: BuildPlan, name: str, start: Path, schedule: Schedule) -> Path:
    """Train the UNet of a pipeline for a schedule, on top of the steps that it had; return the folder of the result."""
    folder = plan.work / name
    if folder.is_dir():
        return folder
    pipeline = open_pipeline(start)
    images, captions = drawings(plan)
    with plan.timed(name):
        latents = plan.work / "latents.safetensors"
        if not latents.is_file():
            with atomic_file(latents) as temporary:
                write_tensors({"latents": encode_all(pipeline.vae.to(plan.device), images)}, temporary)
        data = Captioned(load_file(latents)["latents"], tokenize(pipeline, captions))
        state = plan.work / f"{name}.state"
        losses = train_base(
            pipeline,
            data,
            state,
            plan.seed,
            schedule,
            steps_of(start),
            plan.batch,
            plan.device,
            plan.compiled,
            plan.report,
        )
    save_trained(pipeline, folder, losses, [*trainings_of(start), _training(plan, name, schedule)])
    state.unlink()
    return folder


def _training(plan: BuildPlan, name: str, schedule: Schedule) -> dict[str, Any]:
    """Return what the model card tells of a training that has ended."""
    return {
        "stage": name.partition("-")[0],
        "steps": schedule.steps,
        "rate": schedule.rate,
        "minutes": round(plan.seconds()[name] / 60, 1),
        "machine": machine_name() if plan.device == "cpu" else plan.device,
    }


def ship(plan: BuildPlan) -> Path:
    """Write the pipeline, UNet and VAE in half precision, and its sample grid."""
    # The grid's prompts are written last of all.
    if (plan.made / SAMPLES).with_suffix(".json").is_file():
        return plan.made
    with plan.timed("pipeline"):
        folder = longer(plan)
        pipeline = open_pipeline(folder)
        # The text encoders stay in fp32: without a dtype given, transformers loads what the file has and diffusers
        # loads fp32, so that a user's from_pretrained would get networks that don't fit together.
        with quiet_toolchains():
            for network in (pipeline.unet, pipeline.vae):
                network.to(torch.float16)
        write_pipeline(pipeline, plan.made, trainings_of(folder))
        write_samples(open_pipeline(plan.made), plan.made / SAMPLES, plan.seed)
    return plan.made


def judge(plan: BuildPlan) -> Path:
    """Train the judge; return its folder."""
    folder = plan.made / JUDGE_FOLDER
    if not folder.is_dir():
        with plan.timed("judge"):
            build_judge(plan.seed, plan.work / "judge", folder, report=plan.report, device=plan.device)
    return folder


def references(plan: BuildPlan) -> Path:
    """Draw the dataset's reference images; return its folder."""
    folder = plan.made / DATASET_FOLDER
    # Its description is written last.
    if not (folder / DATASET_FILE).is_file():
        with plan.timed("references"):
            write_dataset(folder, plan.seed)
    return folder


def loras(plan: BuildPlan) -> Path:
    """Train the 56 LoRAs, as `lorarar train-lora --dataset` trains anyone's; return their folder."""
    folder = plan.made / DATASET_FOLDER
    if missing_jobs(read_dataset(folder)):
        with plan.timed("loras"):
            train_loras(folder, base_of(plan.made), plan.lora_settings(), plan.workers, plan.report)
    return folder / "loras"


def train_loras(folder: Path, base: str, wanted: Mapping[str, LoraSettings], workers: int, report: Report) -> None:
    """Train the LoRAs that a dataset lacks, by the settings of its contents and of its styles."""
    dataset = read_dataset(folder)
    for only, given in wanted.items():
        jobs = missing_jobs(dataset, [only])
        if not jobs:
            continue
        process = command_process()
        settings = with_fastest_precision(given, process)
        loading = BaseLoading.of(base, process, settings.mixed_precision, dataset.resolution)
        steps: list[float] = []

        def on_step(name: str, loss: float, seen: list[float] = steps, total: int = settings.steps * len(jobs)) -> None:
            seen.append(loss)
            report(f"{name}, loss {loss:.4f}", len(seen), total)

        train_jobs(jobs, loading, JobSettings(settings, LORA_DTYPE, style_words()), workers, on_step)


def hypernet(plan: BuildPlan) -> Path:
    """Train the hypernetwork, as `lorarar train` trains anyone's; return its file."""
    path = plan.made / HYPERNET_FILE
    if path.with_suffix(".png").is_file():  # the curves, which are written last
        return path
    dataset = read_dataset(plan.made / DATASET_FOLDER)
    process = command_process()
    settings = with_fastest_precision(replace(plan.hyper, seed=plan.seed), process)
    loading = BaseLoading.of(base_of(plan.made), process, settings.mixed_precision, dataset.resolution)

    def on_row(row: HistoryRow) -> None:
        plan.report(f"hypernetwork, {row.part} loss {row.total:.5f}", row.step, settings.steps)

    with plan.timed("hypernet"):
        inputs = load_inputs(loading, dataset, DEFAULT_SPLIT, settings)
        train_predictor(inputs, settings, on_row=on_row, state=plan.work / "hypernet.state").save(path)
    return path


def publish(plan: BuildPlan) -> Path:
    """Put what was made in place of the output folder, all of it at once."""
    check_output(plan.output, plan.work)
    with atomic_folder(plan.output) as temporary:
        # Hidden is what a killed run was writing.
        shutil.copytree(plan.made, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    return plan.output


def refuse_strange(folder: Path, mark: str) -> None:
    """Refuse a folder with anything in it but the file `mark`, which a build writes into its own."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file():
        raise InputError(f"{folder} holds other things; give a new or empty folder, or one that a build has written")


def check_output(folder: Path, work: Path) -> None:
    """Refuse an output folder with anything in it that is no miniature, or with the work folder: it would be removed.

    The build fills the work folder, so the output is no part of that either.
    """
    refuse_strange(folder, TIMES)
    there, working = folder.resolve(), work.resolve()
    if working in (there, *there.parents) or there in working.parents:
        raise InputError(f"`out` {folder} and `work` {work} are one within the other; give folders beside each other")


def sample_prompts(seed: int) -> list[str]:
    """Return a plain subject of every kind, then one in every family of styles."""
    rng = np.random.default_rng((seed, 3))
    kinds = list(KINDS)
    styles = [None] * len(kinds) + [family.description for family in FAMILIES.values()]
    return [caption(fresh_subject(rng, kinds[number % len(kinds)]), style=style) for number, style in enumerate(styles)]


def write_samples(pipeline: StableDiffusionXLPipeline, path: Path, seed: int) -> None:
    """Draw a grid of one image a prompt, and write the prompts as .json beside it."""
    prompts = sample_prompts(seed)
    seeds = range(seed, seed + len(prompts))
    sampling = Sampling.of(MINIATURE, default_evaluation(MINIATURE))
    drawn = draw_captions(pipeline, prompts, seeds, sampling, COLUMNS)
    grid = sheet([np.stack([np.asarray(image) for image in drawn])], COLUMNS)
    with atomic_file(path) as temporary:
        grid.save(temporary, format="PNG")
    with atomic_file(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(prompts, indent=1) + "\n", encoding="utf-8")
