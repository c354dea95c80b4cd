"""Single changes of the iOS engine that its tests must see."""

from __future__ import annotations

from ios.swift import PACKAGE
from mutant import Mutant

SOURCES = PACKAGE / "Sources" / "Merger"


MUTANTS = {
    "a row's role": Mutant(
        "Stack.swift", "row * layout.loras + role", "row * layout.loras + (1 - role)", "testStackingIsExact"
    ),
    "a coefficient of the pair": Mutant(
        "Blender.swift", "isPair && role < 2", "isPair && role < 1", "testStrengthsAreWrittenInPlace"
    ),
    "a strength's sign": Mutant(
        "Blender.swift", "unit[at] * strength", "unit[at] * -strength", "testThreeLorasReachTheNetworks"
    ),
    "coefficients in new memory": Mutant(
        "Blender.swift",
        "let roles = stack.layout.loras\n",
        "let roles = stack.layout.loras\n        values = values.map { $0.map { $0 + 0 } }\n",
        "testStrengthsAreWrittenInPlace",
    ),
    "a graph for a strength": Mutant(
        "LoraRarPipeline.swift",
        "return try Clock.seconds { try blender.write",
        "return try Clock.seconds { _ = try opened().predict(blender.stack); try blender.write",
        "testAStrengthRunsNoGraph",
    ),
    "sines before cosines": Mutant(
        "Sinusoids.swift",
        "Float(cos($0)) } + angles.map { Float(sin($0))",
        "Float(sin($0)) } + angles.map { Float(cos($0))",
        "testSinusoids",
    ),
    "tiles that do not fade": Mutant(
        "Tiles.swift",
        "min((Float(min($0, size - 1 - $0)) + 0.5) / over, 1)",
        "over / over + Float($0 * 0)",
        "testTiles",
    ),
    "a tile's rows": Mutant("Tiles.swift", "top + row % tile", "top + row / tile", "testTiles"),
    "LoRAs in the unconditional row": Mutant(
        "Pipeline.swift",
        "rows: given.map(\\.share)",
        "rows: given.map { _ in .merge }",
        "testThreeLorasReachTheNetworks",
    ),
    "LoRAs in the negative prompt": Mutant(
        "Condition.swift", "rows: [reading.share]", "rows: [.merge]", "testThreeLorasReachTheNetworks"
    ),
    "the other text encoder's layers": Mutant(
        "Stack.swift",
        "group.layers.enumerated() {",
        'group.layers.map { $0.replacingOccurrences(of: "encoder_2.", with: "encoder.") }.enumerated() {',
        "testThreeLorasReachTheNetworks",
    ),
    "a golden image without the text encoders' LoRAs": Mutant(
        "Check.swift",
        "inputs.merge(try goldenInputs(store.loaded(encoder).component))",
        "_ = try goldenInputs(store.loaded(encoder).component)",
        "testTheWholeImageInBothPrecisions",
    ),
    "a transposition": Mutant(
        "Stack.swift", "(place * group.outFeatures + out) * rows + start", "place * rows + start", "testStackingIsExact"
    ),
    "up and down": Mutant(
        "Layout.swift", '"adapter_\\(name)_up"', '"adapter_\\(name)_down"', "testTheGoldenBundleOpens"
    ),
    "a share of another part": Mutant("Carried.swift", "$0.part == part", "$0.part != part", "testCarriedShares"),
    "a delta that lets all pass": Mutant(
        "Parity.swift", "abs(gain - 1) <= tolerance", "abs(gain - 1) >= -tolerance", "testWhatLorasChange"
    ),
    "an SGM block": Mutant("ModuleNames.swift", "input_blocks.\\(1 + 3", "input_blocks.\\(2 + 3", "testEveryDialect"),
    "alpha without its rank": Mutant(
        "LoraReader.swift", "alpha.name) / Double(rank)", "alpha.name)", "testEveryDialect"
    ),
    "the generator's shift": Mutant("Golden.swift", "x ^= x >> 13", "x ^= x >> 12", "testGoldenInputs"),
    "the step's direction": Mutant(
        "Scheduler.swift", "latent + predicted * delta", "latent - predicted * delta", "testSchedules"
    ),
    "guidance": Mutant(
        "Pipeline.swift",
        "guidance * (told - without)",
        "guidance * (without - told)",
        "testTheWholeImageInBothPrecisions",
    ),
    "an output's strides": Mutant(
        "CoreMLRuntime.swift", "with: source[place * size", "with: source[row * size", "testRunsWithStridesOfCoreMLsOwn"
    ),
    "the newest model freed first": Mutant(
        "ModelStore.swift", "let oldest = used.first", "let oldest = used.last", "testWhatWasUsedLongestAgoGoesFirst"
    ),
    "a prompt that is read for every image": Mutant(
        "ModelStore.swift", "last.key == key {", "last.key != key {", "testANewSeedLoadsNothingAndReadsNothing"
    ),
    "memory that nobody asks for": Mutant(
        "ModelStore.swift", "guard free >= needed", "guard free >= 0", "testWhatHasNoRoomIsNotLoaded"
    ),
    "a seal for any files": Mutant(
        "Seals.swift", "encoding: .utf8)) == state", "encoding: .utf8)) != nil", "testABundleIsHashedOnce"
    ),
    "processors that a component is not made for": Mutant(
        "CoreMLRuntime.swift",
        "(units ?? component.units).coreML\n        let model",
        "(units ?? .all).coreML\n        let model",
        "testAComponentRunsOnTheProcessorsThatItIsMadeForUnlessOthersAreGiven",
    ),
    "packages that stay beside their compiled models": Mutant(
        "LoraRarPipeline.swift",
        "where manager.isWritableFile(atPath: folder.path) {",
        "where !manager.isWritableFile(atPath: folder.path) {",
        "testAPackageGoesOnceItIsCompiledAndTheBundleOpensAsBefore",
    ),
    "rows without their gaps": Mutant(
        "CoreAIRuntime.swift", "(target + place).update", "(target + row).update", "testRunsWithStridesOfCoreAIsOwn"
    ),
    "parity that lets all pass": Mutant("Parity.swift", "maxError <= tolerance", "maxError >= -tolerance", "testWrong"),
}
