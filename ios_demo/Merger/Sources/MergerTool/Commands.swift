import Foundation
import Merger

typealias Command = (inout Arguments) async throws -> Int32

func check(_ arguments: inout Arguments) async throws -> Int32 {
    let engine = LoraRarPipeline(try arguments.runtime())
    _ = try await engine.open(arguments.file("a BUNDLE"))
    let rows = try await engine.check(row: { row in
        let worst = row.worst.map { String(format: "%.1e", $0.maxError) } ?? "-"
        let psnr = row.psnrDb.map { String(format: "%.1f dB", $0) } ?? "-"
        let delta = row.delta.map { String(format: "gain %.4f, cosine %.4f", $0.gain, $0.cosine) } ?? "-"
        print("\(row.component)\t\(row.status.rawValue)\t\(psnr)\t\(worst)\t\(delta)\t\(row.reason?.description ?? "")")
    })
    for times in try await engine.loadTimes() {
        let compile = times.compileSeconds.map { String(format: ", %.2f s of it compiling", $0) } ?? ""
        print(
            String(
                format: "loading %@ took %.2f s%@", times.component as NSString, times.totalSeconds, compile as NSString
            ))
    }
    return rows.allSatisfy { $0.status == .passed } ? 0 : 1
}

func merge(_ arguments: inout Arguments) async throws -> Int32 {
    let output = try arguments.output()
    let engine = LoraRarPipeline(try arguments.runtime())
    _ = try await engine.open(arguments.file("a BUNDLE"))
    let chosen = try await merge(engine, [arguments.file("a LORA")] + arguments.files(), arguments)
    for found in try await chosen.carried() {
        let parts = found.parts.map { "\($0.part.words) \(Carried.percent($0.share))" }
        print("\(found.source): \(Carried.percent(found.share)) carried: \(parts.joined(separator: ", "))")
        if let warning = found.warning { print("warning: \(warning)") }
    }
    if let output {
        try SafeTensorsWriter.write(await engine.tensors(), to: output)
    }
    return 0
}

@discardableResult
private func merge(_ engine: LoraRarPipeline, _ files: [URL], _ arguments: Arguments) async throws
    -> LoraRarPipeline.Chosen
{
    let chosen = try await engine.load(files)
    for lora in chosen.loras {
        print("\(lora.name): \(lora.notes.map(\.description).joined(separator: ", "))")
        for warning in lora.warnings { print("warning: \(warning)") }
    }
    let seconds = try await engine.merge(arguments.numbers("--strengths", count: files.count))
    let network = chosen.hypernetSeconds.map { String(format: "predicted in %.4f s, ", $0) } ?? ""
    print(String(format: "stacked in %.4f s, %@merged in %.6f s", chosen.stackSeconds, network as NSString, seconds))
    return chosen
}

func generate(_ arguments: inout Arguments) async throws -> Int32 {
    let (output, composed) = (try arguments.output(), try arguments.composedStart())
    let engine = LoraRarPipeline(try arguments.runtime())
    _ = try await engine.open(arguments.file("a BUNDLE"))
    guard let prompt = arguments.text("--prompt") else { throw InputError("give --prompt P") }
    var request = try await engine.defaults(prompt, seed: arguments.number("--seed") ?? 0)
    request.steps = try arguments.number("--steps") ?? request.steps
    request.guidance = try arguments.number("--guidance") ?? request.guidance
    request.guidanceRescale = try arguments.number("--guidance-rescale") ?? request.guidanceRescale
    request.negative = arguments.text("--negative")
    request.guidanceWithoutLora = arguments.has("--guidance-without-lora")
    request.composed = composed
    let files = arguments.files()
    if !files.isEmpty { try await merge(engine, files, arguments) }
    let picture = try await engine.generate(request)
    for note in picture.drawn.notes { print(note) }
    let times = picture.drawn.seconds.map { "\($0.name) " + String(format: "%.2f s", $0.seconds) }
    print("\(picture.image.width)×\(picture.image.height): \(times.joined(separator: ", "))")
    if let output {
        let image = Tensor(
            .int32(picture.image.rgba.map { Int32($0) }), shape: [picture.image.height, picture.image.width, 4])
        try SafeTensorsWriter.write(
            ["pixels": picture.drawn.pixels, "latents": picture.drawn.latents, "rgba": image], to: output)
    }
    return 0
}

func benchmark(_ arguments: inout Arguments) async throws -> Int32 {
    let (options, output) = (try arguments.runtime(), try arguments.output())
    let bundle = try arguments.file("a BUNDLE")
    guard let component = arguments.text("--component") else { throw InputError("give --component NAME") }
    let plan = BenchmarkPlan(
        component: component, warmup: try arguments.number("--warmup") ?? 3, runs: try arguments.number("--runs") ?? 20,
        threads: options.threads, units: options.units)
    let record = try await LoraRarPipeline(options).benchmark(bundle, plan)
    if let output {
        try Data((record.serialised + "\n").utf8).write(to: output, options: .atomic)
    } else {
        print(record.serialised)
    }
    return 0
}

/// What LoRA files hold, a line each; with -o, every layer's ΔW of the last one.
func lora(_ arguments: inout Arguments) async throws -> Int32 {
    let output = try arguments.output()
    var code: Int32 = 0
    repeat {
        let file = try arguments.file("a LORA")
        do {
            let found = try LoraReader.read(file)
            try found.checkValues()
            print("\(file.lastPathComponent)\tread\t\(found.notes.map(\.description).joined(separator: ", "))")
            if let output {
                try SafeTensorsWriter.write(deltas(found), to: output)
            }
        } catch let error as InputError {
            print("\(file.lastPathComponent)\trefused\t\(error.sentence)")
            code = 2
        }
    } while !arguments.isEmpty
    return code
}

private func deltas(_ lora: Lora) throws -> [String: Tensor] {
    var found: [String: Tensor] = [:]
    for name in lora.names {
        guard let layer = try lora.layer(name) else { continue }
        found[name] = Tensor(layer.delta(), shape: layer.weightShape)
    }
    return found
}
