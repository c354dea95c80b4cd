"""`make test-coreml`: run a fixed sample of coremltools' own tests with our evaluator, and write what came out."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from coreml_suite.packages import BEYOND, LARGEST_ERROR
from coreml_suite.stand_in import OLD_FORMAT

ROOT = Path(__file__).parents[3]
PER_FUNCTION = 6
"""Cases of every test function: enough for 2,500 that predict."""
OPERATIONS = "converters/mil/mil/ops/tests"
TORCH = "converters/mil/frontend/torch/test"
PLACES = (
    OPERATIONS,
    *(f"{TORCH}/test_torch_{name}.py" for name in ("ops", "conversion_api", "export_conversion_api", "stateful_model")),
    *(f"{TORCH}/{name}.py" for name in ("test_torch_quantization_ops", "test_custom_ops")),
    *(f"converters/mil/{name}" for name in ("test_inputs_outputs_shape.py", "backend/mil", "mil/passes/tests")),
    *("converters/mil/mil/tests", "converters/mil/frontend/milproto"),
    *("test/ml_program", "test/optimize", "test/api", "test/pipeline"),
)
"""Within the coremltools package. Tests of other formats, of TensorFlow and of its trainers are not evaluated."""
WORDS = ("Regex pattern did not match", "DID NOT RAISE", "in str(")
"""What a test says that wants an error in Core ML's own words."""


@dataclass(frozen=True)
class Outcome:
    """One test that asked for a prediction."""

    test: str
    group: str
    verdict: str  # a key of VERDICTS
    reason: str


VERDICTS: Mapping[str, str] = {
    "passed": "as Apple expects",
    "expected": "fails as Apple's own mark (xfail) says that it does",
    "refused as well": "refused, where the test wants Core ML to refuse it, but in Core ML's words",
    "run": "run, where the test wants Core ML to refuse it",
    "unknown": "an operation that the evaluator does not know",
    "refused": "refused for another reason",
    "wrong": "another result",
    "crashed": "a traceback",
}


def main() -> int:
    """Run the sample where it was not run yet, and write the page."""
    parser = argparse.ArgumentParser(prog="coreml_suite", description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--outcomes", type=Path, default=ROOT / "build" / "coreml" / "outcomes.jsonl")
    parser.add_argument("--packages", type=Path, default=ROOT / "build" / "coreml" / "packages.json")
    parser.add_argument("--speed", type=Path, default=ROOT / "build" / "coreml" / "speed.json")
    parser.add_argument("--keep", action="store_true", help="write the page of outcomes that are there")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "core-ml-conformance.md")
    args = parser.parse_args()
    if not args.keep:
        run_sample(args.outcomes, args.workers)
    told, *rows = [json.loads(line) for line in args.outcomes.read_text(encoding="utf-8").splitlines()]
    judged = [outcome for outcome in map(judge, rows) if outcome is not None]
    packages, speeds = (
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else [] for path in (args.packages, args.speed)
    )
    args.page.write_text(page(judged, len(rows), told["cases"], packages, speeds), encoding="utf-8")
    counts = Counter(outcome.verdict for outcome in judged)
    print(
        f"{len(judged):,} predicting tests: " + ", ".join(f"{count:,} {verdict}" for verdict, count in counts.items())
    )
    good = sum(counts[verdict] for verdict in ("passed", "expected", "refused as well", "run"))
    return 0 if good >= 0.97 * len(judged) and not counts["wrong"] and not counts["crashed"] else 1


def run_sample(outcomes: Path, workers: int) -> None:
    """Run what is left of the sample; every test's outcome becomes a line of the file.

    Its first line tells which code the outcomes are of: those of other code are thrown away.
    """
    outcomes.parent.mkdir(parents=True, exist_ok=True)
    code = json.dumps({"cases": PER_FUNCTION, "code": code_digest()}) + "\n"
    there = outcomes.read_text(encoding="utf-8") if outcomes.is_file() else ""
    whole = there[: there.rfind("\n") + 1]  # a run that was killed may have left half a line
    outcomes.write_text(whole if whole.startswith(code) else code, encoding="utf-8")
    package = Path(str(find_spec("coremltools").submodule_search_locations[0]))  # type: ignore[union-attr,index]
    tests = [str(package / place) for place in PLACES]
    options = [
        "-p",
        "coreml_suite.plugin",
        "-c",
        os.devnull,
        f"--rootdir={package}",
        "-q",
        "-W",
        "ignore",
        "--tb=short",
    ]
    options += ["-p", "no:cacheprovider", "--continue-on-collection-errors", f"--per-function={PER_FUNCTION}"]
    options += [f"--outcomes={outcomes}", *(["-n", str(workers), "--dist", "worksteal"] if workers > 1 else [])]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    with (outcomes.parent / "pytest.log").open("w") as log:
        command = [sys.executable, "-m", "pytest", *options, *tests]
        subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)


def code_digest() -> str:
    """Return the SHA-256 of the evaluator, of this suite, and of the versions that it runs with."""
    digest = hashlib.sha256()
    for folder in (ROOT / "runtime_py" / "mil", Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    for package in ("coremltools", "torch", "numpy"):
        digest.update(f"{package}=={version(package)}".encode())
    return digest.hexdigest()


def judge(row: Mapping[str, Any]) -> Outcome | None:
    """Tell how a test that asked for a prediction ended; None for one that did not, and for other formats."""
    happened: list[list[str]] = row["happened"]
    asked = [what for what, _ in happened if what.startswith(("predict", "open refused", "open crashed"))]
    if not asked or row["outcome"] == "skipped" or any(what == OLD_FORMAT for what, _ in happened):
        return None
    refused = [said for what, said in happened if what.endswith("refused")]
    crashed = [said for what, said in happened if what.endswith("crashed")]
    verdict, reason = "passed", ""
    if row["outcome"] == "xfailed":
        verdict = "expected"
    elif row["outcome"] == "failed" and crashed:
        verdict, reason = "crashed", crashed[0]
    elif row["outcome"] == "failed" and refused:
        as_well = any(words in row["said"] for words in WORDS)
        kind = "refused as well" if as_well else "unknown" if "does not know" in refused[0] else "refused"
        verdict, reason = kind, refused[0]
    elif row["outcome"] == "failed" and "DID NOT RAISE" in row["said"] and "RuntimeError" in row["said"]:
        verdict, reason = "run", row["said"].removeprefix("E ").strip()
    elif row["outcome"] == "failed":
        verdict, reason = "wrong", row["said"].removeprefix("E ").strip()
    return Outcome(row["test"], group_of(row["test"]), verdict, reason)


def group_of(test: str) -> str:
    """Return the class that a test is counted in."""
    if OPERATIONS in test or test.startswith("iOS"):
        return "MIL operations"
    if "TORCHEXPORT" in test:
        return "PyTorch by torch.export"
    return "PyTorch by TorchScript" if TORCH in test else "interfaces, passes, compression"


def page(
    outcomes: Sequence[Outcome],
    ran: int,
    cases: int,
    packages: Sequence[Mapping[str, Any]],
    speeds: Sequence[Mapping[str, Any]],
) -> str:
    """Return docs/core-ml-conformance.md."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        counts[outcome.group][outcome.verdict] += 1
    groups = sorted(counts)
    lines = [
        "# How much of Core ML the evaluator runs",
        "",
        f"Made by `make test-coreml`: {ran:,} of coremltools 9.0's own tests, {cases} cases of every function,",
        "the same each time. Apple runs them on Macs with Core ML; here `runtime_py/mil` stands in its place.",
        f"Counted are the {len(outcomes):,} that ask for a prediction of an ML program.",
        "",
        "| | " + " | ".join(groups) + " | all |",
        "| --- |" + " ---: |" * (len(groups) + 1),
    ]
    for verdict, meaning in VERDICTS.items():
        numbers = [counts[group][verdict] for group in groups]
        lines.append(
            f"| {verdict}: {meaning} | " + " | ".join(f"{number:,}" for number in [*numbers, sum(numbers)]) + " |"
        )
    lines += ["", "## What did not pass", ""]
    lines += list(_reasons(outcome for outcome in outcomes if outcome.verdict not in ("passed", "expected")))
    if packages:
        lines += ["", *_packages(packages)]
    if speeds:
        lines += ["", *_speeds(speeds)]
    return "\n".join(lines) + "\n"


def _reasons(outcomes: Iterable[Outcome]) -> Iterable[str]:
    reasons: dict[tuple[str, str, str], int] = Counter()
    for outcome in outcomes:
        function = outcome.test.partition("[")[0].rpartition("/")[2]
        reasons[outcome.verdict, function, " ".join(outcome.reason.split())[:300]] += 1
    yield "| verdict | test | cases | what was said |"
    yield "| --- | --- | ---: | --- |"
    for (verdict, function, said), count in sorted(reasons.items()):
        text = said.replace("|", "\\|").replace("<", "&lt;")
        yield f"| {verdict} | `{function}` | {count} | {text} |"


def _packages(packages: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    yield "## Real packages"
    yield ""
    yield "Networks of random weights, converted by coremltools and compared with PyTorch: PSNR in dB, and the largest"
    yield "error as a share of the largest value. Apple's UNets are of reduced sizes, from a checkout of"
    yield "apple/ml-stable-diffusion (`make test-coreml APPLE=DIR`)."
    for name, (_, reason) in BEYOND.items():
        yield f"{name} is beyond {LARGEST_ERROR:g}: {reason}."
    yield ""
    yield "| network | fp32 | error | fp16 | operations |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for each in packages:
        if "refused" in each:
            yield f"| {each['name']} | {each['refused']} | | | |"
        else:
            numbers = f"{each['fp32']:.0f} | {each['error']:.1e} | {each['fp16']:.0f} | {each['operations']}"
            yield f"| {each['name']} | {numbers} |"


def _speeds(speeds: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    yield "## Speed"
    yield ""
    yield f"Times PyTorch's own on the same machine ({speeds[0]['host']}, nothing else running), in turn with it:"
    yield "medians of the ratios."
    yield ""
    yield "| network | PyTorch, ms | evaluator, fp32 | evaluator, fp16's rounding |"
    yield "| --- | ---: | ---: | ---: |"
    for each in speeds:
        yield f"| {each['name']} | {each['torch_ms']} | {each['fp32']}× | {each['fp16']}× |"


if __name__ == "__main__":
    sys.exit(main())
