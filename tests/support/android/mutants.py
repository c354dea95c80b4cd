"""Single changes of the engine that its golden tests must see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from android.kotlin import MERGER, compile_kotlin, executorch_classes, onnxruntime_classes

SOURCES = MERGER / "src" / "main" / "kotlin" / "org" / "lorarar" / "merger"


@dataclass(frozen=True)
class Mutant:
    """One change of one file, and the test that must fail, as Class.method."""

    file: str
    before: str
    after: str
    test: str

    def build(self, merger: Path, folder: Path) -> Path:
        """The changed file's classes, to be put before those of the engine's jar `merger`."""
        source = (SOURCES / self.file).read_text(encoding="utf-8")
        if source.count(self.before) != 1:
            raise ValueError(
                f"{self.file} has {source.count(self.before)} places with {self.before!r}; the change needs 1"
            )
        changed = folder / self.file
        changed.write_text(source.replace(self.before, self.after), encoding="utf-8")
        classpath = [merger, onnxruntime_classes(), executorch_classes()]
        return compile_kotlin([changed], folder / "mutant.jar", classpath, friend=merger)


MUTANTS = {
    "a carried layer's sign": Mutant(
        "Merger.kt", "down[i] *= scale", "down[i] *= -scale", "OnnxTest.layersOfOneLoraAreCarried"
    ),
    "a carried layer out of float16's range": Mutant(
        "Packer.kt",
        "        balance(down, up, downs.dtype, group.modules[row])\n",
        "",
        "OnnxTest.aCarriedLayerIsBalancedInHalfPrecision",
    ),
    "alpha times rank": Mutant(
        "LoraReader.kt",
        "alpha(it.first) / rank",
        "alpha(it.first) * rank",
        "LoraReaderTest.everyDialectMeansItsGoldenUpdate",
    ),
    "up transposed": Mutant(
        "Packer.kt",
        "up.copyInto(line, 0, out * rank, (out + 1) * rank)",
        "for (i in line.indices) line[i] = up[i * group.outFeatures + out]",
        "OnnxTest.theGoldenMergeIsThePapers",
    ),
    "content and style swapped": Mutant(
        "Merger.kt",
        "LayerCoefficients(module, first.toFloatArray(), second.toFloatArray())",
        "LayerCoefficients(module, second.toFloatArray(), first.toFloatArray())",
        "OnnxTest.theMergeIsPythons",
    ),
    "a tensor's name": Mutant(
        "Layout.kt", '"${role}_${group.up}"', '"${role}_${group.down}"', "BundleTest.theGoldenBundle"
    ),
    "a block's name": Mutant(
        "KohyaNames.kt",
        "input_blocks.${1 + 3 *",
        "input_blocks.${2 + 3 *",
        "LoraReaderTest.everyDialectMeansItsGoldenUpdate",
    ),
    "a constant of the generator": Mutant("Golden.kt", "0x85EBCA6Bu", "0x85EBCA6Du", "NumericsTest.goldenInputs"),
    "a step's direction": Mutant(
        "Scheduler.kt", "sigmas[i + 1] - sigma", "sigma - sigmas[i + 1]", "NumericsTest.schedules"
    ),
    "guidance's sign": Mutant(
        "Condition.kt",
        "guidance * (with[it] - without[it])",
        "guidance * (without[it] - with[it])",
        "OnnxTest.theImageIsPythons",
    ),
    "red in blue's place": Mutant(
        "Pipeline.kt", "(byte(at) shl 16)", "(byte(2 * area + at) shl 16)", "OnnxTest.theImageIsPythons"
    ),
}
