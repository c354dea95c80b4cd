"""Single changes of the engine that its golden tests must see."""

from __future__ import annotations

from pathlib import Path

from android.kotlin import MERGER, compile_kotlin, onnxruntime_classes
from mutant import Mutant

SOURCES = MERGER / "src" / "main" / "kotlin" / "org" / "lorarar" / "merger"


def build(mutant: Mutant, merger: Path, folder: Path) -> Path:
    """The changed file's classes, to be put before those of the engine's jar `merger`."""
    changed = folder / mutant.file
    changed.write_text(mutant.applied(SOURCES), encoding="utf-8")
    return compile_kotlin([changed], folder / "mutant.jar", [merger, onnxruntime_classes()], friend=merger)


MUTANTS = {
    "a layer of one LoRA averaged": Mutant(
        "Blender.kt",
        "number < 2 && areBoth(layer)) rule",
        "number < 2) rule",
        "OnnxTest.oneLoraIsItselfAndNoneIsNothing",
    ),
    "a strength of another LoRA": Mutant(
        "Blender.kt", "strengths.getOrElse(place % roles)", "strengths.getOrElse(0)", "OnnxTest.theMergeIsPythons"
    ),
    "strengths that add up": Mutant(
        "Blender.kt",
        "val from = unit.getValue",
        "val from = values.getValue",
        "OnnxTest.anotherStrengthRunsNoGraphAndWritesCoefficientsAlone",
    ),
    "a graph run for each strength": Mutant(
        "LoraRarPipeline.kt",
        "(blender ?: blend(loaded))",
        "blend(loaded)",
        "OnnxTest.anotherStrengthRunsNoGraphAndWritesCoefficientsAlone",
    ),
    "a row of another LoRA": Mutant(
        "Stack.kt",
        "roles.write(row * layout.loras + number,",
        "roles.write(row * layout.loras,",
        "OnnxTest.threeLorasAreMerged",
    ),
    "a factor out of float16's range": Mutant(
        "Stack.kt", "for (i in up.indices) up[i] /= factor", "", "OnnxTest.aLayerIsBalancedInHalfPrecision"
    ),
    "alpha times rank": Mutant(
        "LoraReader.kt",
        "alpha(it.first) / rank",
        "alpha(it.first) * rank",
        "LoraReaderTest.everyDialectMeansItsGoldenUpdate",
    ),
    "up transposed": Mutant(
        "Stack.kt",
        "up.copyInto(line, 0, out * layer.rank, (out + 1) * layer.rank)",
        "for (i in line.indices) line[i] = up[i * group.outFeatures + out]",
        "OnnxTest.theGoldenMergeIsThePapers",
    ),
    "content and style swapped": Mutant(
        "Blender.kt",
        "LayerMean(layer, mean(group, row * roles), mean(group, row * roles + 1))",
        "LayerMean(layer, mean(group, row * roles + 1), mean(group, row * roles))",
        "OnnxTest.theMergeIsPythons",
    ),
    "a tensor's name": Mutant("Layout.kt", "${name}_up", "${name}_down", "BundleTest.theGoldenBundle"),
    "what is left out": Mutant("Carried.kt", "percent(1 - share)", "percent(share)", "OnnxTest.whatIsLeftOutIsPythons"),
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
        "request.guidance * (said[it] - without[it])",
        "request.guidance * (without[it] - said[it])",
        "OnnxTest.theImageIsPythons",
    ),
    "no rescaling": Mutant("Condition.kt", "if (share == 0f)", "if (share >= 0f)", "OnnxTest.theImageIsPythons"),
    "LoRAs in what guidance compares with": Mutant(
        "Condition.kt", "Share.NONE -> null", "Share.NONE -> coefficients", "OnnxTest.otherImagesArePythons"
    ),
    "LoRAs in the prompt of what not to draw": Mutant(
        "Condition.kt", "listOf(reading.share)", "listOf(Share.MERGE)", "TextTest.otherImagesArePythons"
    ),
    "a prompt without LoRAs": Mutant(
        "Condition.kt",
        "listOf(reading.share)",
        "listOf(Share.NONE)",
        "TextTest.theImageIsPythons",
    ),
    "a composed start's class that is added": Mutant(
        "ComposedStart.kt", "sign = -1f", "sign = 1f", "OnnxTest.otherImagesArePythons"
    ),
    "a composed start with the other LoRA": Mutant(
        "LoraRarPipeline.kt",
        "share == Share.CONTENT, share == Share.STYLE",
        "share == Share.STYLE, share == Share.CONTENT",
        "OnnxTest.otherImagesArePythons",
    ),
    "layers of the other text encoder": Mutant(
        "Layout.kt", '"te2" to "text_encoder_2"', '"te2" to "text_encoder"', "TextTest.everyNetworkTakesItsOwnLayers"
    ),
    "coefficients of the UNet alone in the golden image": Mutant(
        "Check.kt",
        'facts.tokenizers.keys + "unet"',
        'listOf("unet")',
        "TextTest.everyPartPassesItsCheckAndTheWholeImageToo",
    ),
    "an effect of LoRAs that is not looked at": Mutant(
        "Parity.kt", "shared / power,", "1.0,", "OnnxTest.aLostEffectFailsTheCheck"
    ),
    "sines before cosines": Mutant(
        "Sinusoids.kt", "cos(angle) else sin(angle)", "sin(angle) else cos(angle)", "NumericsTest.sinusoids"
    ),
    "the sizes' sinusoids without the corner": Mutant(
        "Condition.kt", "side, side, 0f, 0f, side, side", "side, side, side, side, 0f, 0f", "OnnxTest.theImageIsPythons"
    ),
    "tiles that do not fade": Mutant(
        "Tiles.kt", "min((min(it, size - 1 - it) + 0.5f) / over, 1f)", "over / over", "NumericsTest.tiles"
    ),
    "a tile too far": Mutant("Tiles.kt", "(length - tile + step - 1)", "(length - tile)", "NumericsTest.tiles"),
    "another chip's context": Mutant(
        "Qnn.kt", "!made.equals(chip, ignoreCase = true)", "made.isEmpty()", "QnnTest.anotherChipsContextIsRefused"
    ),
    "versions compared as texts": Mutant(
        "Qnn.kt", "older(sdk, by) ->", "sdk < by ->", "QnnTest.newerLibrariesContextsAreRefused"
    ),
    "networks that are loaded for every image": Mutant(
        "Residency.kt",
        "if (memory == null) shrink()",
        "shrink()",
        "ResidencyTest.aNewSeedLoadsNothingAndReadsNothing",
    ),
    "a prompt that is read for every image": Mutant(
        "Condition.kt",
        "if (known == key) return told",
        "if (known === key) return told",
        "ResidencyTest.aNewSeedLoadsNothingAndReadsNothing",
    ),
    "another strength's prompt": Mutant(
        "Condition.kt",
        "identity.takeIf { facts",
        "identity.takeIf { false && facts",
        "ResidencyTest.aPromptIsReadAgainWithOtherStrengthsWhereTextEncodersTakeLoras",
    ),
    "a LoRA that is copied though it can be mapped": Mutant(
        "Catalogue.kt",
        "strangers.map(place)?.close() != null",
        "strangers.map(place)?.close() == Unit && false",
        "ChoiceTest.aLoraThatCanBeMappedIsNotCopied",
    ),
    "memory that nobody asks for": Mutant(
        "Residency.kt", "if (free < needed) {", "if (free < 0) {", "ResidencyTest.whatHasNoRoomIsNotLoaded"
    ),
    "the newest network freed first": Mutant(
        "Residency.kt", "kept.keys.first()", "kept.keys.last()", "ResidencyTest.whatWasUsedLongestAgoGoesFirst"
    ),
    "a run that can't be ended": Mutant(
        "OnnxRuntime.kt",
        "running?.setTerminate(true) ?: Unit",
        "Unit",
        "ResidencyTest.stoppingEndsARunWithinAnOperator",
    ),
    "a seal for any files": Mutant(
        "Seals.kt",
        "it.isFile && it.readText() == state(bundle)",
        "it.isFile",
        "StudioTest.aSealDoesNotHoldForOtherFiles",
    ),
    "a bundle hashed at every start": Mutant(
        "Bundle.kt",
        "if (only == null) seals?.put(folder)",
        "if (only != null) seals?.put(folder)",
        "StudioTest.theSecondStartCopiesAndHashesNothing",
    ),
    "the picture before": Mutant(
        "StudioApi.kt",
        "if (isNew) kept.get() else null",
        "null",
        "RemoteTest.fromTheStartToAPicture",
    ),
    "a strength from before the engine was ended": Mutant(
        "StudioApi.kt",
        "waiting += Command.Strength(Catalogue.STYLES, state.styleScale)",
        "",
        "RemoteTest.aProcessThatIsEndedIsOneSentenceAndBeginsAnewWithWhatWasChosen",
    ),
    "slow cores among the fast": Mutant(
        "Cores.kt", "it > slowest", "it >= slowest", "NumericsTest.fastCoresAreThoseAboveTheSlowest"
    ),
    "half of a Gram matrix": Mutant(
        "Lora.kt", "product else 2 * product", "product else product", "OnnxTest.whatIsLeftOutIsPythons"
    ),
    "red in blue's place": Mutant(
        "Drawing.kt", "(byte(at) shl 16)", "(byte(2 * area + at) shl 16)", "OnnxTest.theImageIsPythons"
    ),
}
