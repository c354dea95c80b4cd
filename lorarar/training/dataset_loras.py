"""Train the LoRAs of a dataset that are missing, several at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lorarar.errors import InputError
from lorarar.files import check_lora_output
from lorarar.lora import write_lora
from lorarar.lora.safetensors_file import open_safetensors
from lorarar.pool import process_pool
from lorarar.training.dataset import Content, Dataset, Style
from lorarar.training.launch import BaseLoading, flush_denormals, process_state
from lorarar.training.settings import MEMORY_OPTIONS, LoraSettings
from lorarar.training.style_words import StyleWords

OnStepDone = Callable[[str, float], None]
"""Called after each step with the name of the entry and the step's loss."""
Job = Content | Style
"""An entry of a dataset whose LoRA is to be trained."""


def missing_jobs(dataset: Dataset, only: Sequence[str] = ()) -> list[Job]:
    """List the contents and styles of a dataset whose LoRA file is not there, in this order.

    `only` keeps some names, of which "contents" and "styles" stand for all of them. InputError for an unknown name.
    """
    return [entry for entry in chosen_jobs(dataset, only) if not entry.lora.is_file()]


def chosen_jobs(dataset: Dataset, only: Sequence[str] = ()) -> list[Job]:
    """List the contents and styles that `only` names, as `missing_jobs`, with those whose LoRA is there."""
    entries: list[Job] = [*dataset.contents.values(), *dataset.styles.values()]
    kept = {entry.name: {entry.name} for entry in entries}
    kept |= {"contents": set(dataset.contents), "styles": set(dataset.styles)}
    chosen = set()
    for name in only or ("contents", "styles"):
        if name not in kept:
            raise InputError(f"{dataset.folder}: no content or style is named {name!r}; valid are {', '.join(kept)}")
        chosen |= kept[name]
    return [entry for entry in entries if entry.name in chosen]


@dataclass(frozen=True)
class JobSettings:
    """How the LoRAs of a dataset are trained and written; `styles` are the words of a subject's styled examples."""

    training: LoraSettings
    dtype: str
    styles: tuple[str, ...] = ()

    def of(self, job: Job) -> tuple[LoraSettings, StyleWords | None]:
        """Return how one LoRA is trained: a style's has no styled examples."""
        if not (self.training.styled and isinstance(job, Content)):
            return replace(self.training, styled=0.0), None
        return self.training, StyleWords(job.class_prompt, self.styles)


def otherwise_trained(entries: Sequence[Job], settings: JobSettings, others: Mapping[str, Any]) -> list[str]:
    """Say which LoRA files were trained by other settings, a sentence for each difference; `others` are more settings.

    Files that don't say how they were trained are passed over, and so are the precision, which the machine chooses, and
    what saves memory.
    """
    found: dict[str, list[Path]] = {}
    for entry in entries:
        try:
            there = open_safetensors(entry.lora).metadata
        except InputError:  # it is not there, or it is for those to tell who need it
            continue
        training, words = settings.of(entry)
        wanted = {**asdict(training), **others, **({} if words is None else {"style_words": words})}
        for name in ("mixed_precision", *MEMORY_OPTIONS):
            del wanted[name]
        different = [
            f"{name} {there[key]}, not {value}"
            for name, value in wanted.items()
            if there.get(key := f"lorarar_{name}", str(value)) != str(value)
        ]
        if different:
            found.setdefault(", ".join(different), []).append(entry.lora)
    return [
        f"{files[0]} was trained with {text}; remove it to train it anew"
        if len(files) == 1
        else f"{files[0]} and {len(files) - 1} more were trained with {text}; remove them to train them anew"
        for text, files in found.items()
    ]


def training_words(dataset: Dataset, split: str) -> tuple[str, ...]:
    """Return the descriptions of a split's training styles, each once. Raises InputError where there are none."""
    _, styles = dataset.part(split, "train")
    if not styles:
        raise InputError(f"{dataset.folder}: there is no style to train on, whose words `styled` takes; give `styles`")
    return tuple(dict.fromkeys(style.description for style in styles))


def train_jobs(
    jobs: Sequence[Job], loading: BaseLoading, settings: JobSettings, workers: int, report: OnStepDone
) -> None:
    """Train the jobs, `workers` at a time; each LoRA is written as soon as it is done.

    Raises InputError as `train_lora`, for a LoRA that can't be written, before any training, for a base that can't be
    loaded, and for a process that was killed.
    """
    for job in jobs:
        check_lora_output(job.lora)
    if min(workers, len(jobs)) > 1:
        train_in_processes(jobs, loading, settings, min(workers, len(jobs)), report)
    else:
        train_here(jobs, loading.load(), settings, report)


def train_here(jobs: Sequence[Job], components: Any, settings: JobSettings, report: OnStepDone) -> None:
    """Train the jobs one after another in this process, and write each LoRA as soon as it is done.

    In a launch of several processes, all train each LoRA together, and the main one writes it.
    """
    # It imports torch, and the --help of the command that lists the jobs must not.
    from lorarar.training.dreambooth import train_lora

    for job in jobs:

        def on_step(_: int, loss: float, name: str = job.name) -> None:
            report(name, loss)

        training, words = settings.of(job)
        lora = train_lora(components, [job], training, words=words, on_step=on_step)
        if process_state().is_main_process:
            write_lora(lora, job.lora, dtype=settings.dtype)


def train_in_processes(
    jobs: Sequence[Job], loading: BaseLoading, settings: JobSettings, workers: int, report: OnStepDone
) -> None:
    """Train the jobs, `workers` at a time, each process with its own base and its share of the threads.

    Raises the first InputError of a process, once the others have finished the LoRAs they had begun; those stay.
    """
    import torch

    context = multiprocessing.get_context("spawn")  # torch's threads don't survive a fork
    queue = context.Queue()
    listener = threading.Thread(target=_listen, args=(queue, report), daemon=True)
    listener.start()
    threads = max(1, torch.get_num_threads() // workers)
    arguments = (loading, settings, threads, queue)
    advice = f"run again with `jobs` {max(1, workers - 1)}"
    try:
        with process_pool(workers, context, start_worker, arguments, advice) as pool:
            for done in as_completed([pool.submit(_train_in_worker, job) for job in jobs]):
                done.result()
    finally:
        # A process that was killed while it reported leaves the queue locked for good: don't wait for it.
        queue.put(None)
        listener.join(timeout=5)
        queue.cancel_join_thread()


_worker: dict[str, Any] = {}
"""What a training process keeps between its jobs."""


def start_worker(loading: BaseLoading, settings: JobSettings, threads: int, queue: Any) -> None:
    """Set up a process of the pool: its numbers, its share of the threads, and what its jobs need."""
    import torch

    flush_denormals()
    torch.set_num_threads(threads)
    _worker.update(loading=loading, settings=settings, queue=queue)


def _train_in_worker(job: Job) -> None:
    """Train one LoRA; a process loads the base at its first one, from where an InputError reaches the parent."""
    if "components" not in _worker:
        _worker["components"] = _worker["loading"].load()

    def report(name: str, loss: float) -> None:
        _worker["queue"].put((name, loss))

    train_here([job], _worker["components"], _worker["settings"], report)


def _listen(queue: Any, report: OnStepDone) -> None:
    while (step := queue.get()) is not None:
        report(*step)
