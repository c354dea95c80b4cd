import Foundation

/// One image.
public struct Request: Equatable, Sendable {
    public var prompt: String
    public var seed: UInt32
    public var steps: Int
    public var guidance: Double  // classifier-free guidance; 1 turns it off
    public var negative: String?  // nil: what the base was made for, zeros or the empty prompt
    public var guidanceWithoutLora = false  // what guidance compares with is predicted without LoRAs (ACFG)
    public var composed: ComposedStart?  // the first steps with each LoRA alone
    public var guidanceRescale: Double  // how much of what guidance adds to the spread is taken off, 0 to 1

    public init(
        prompt: String, seed: UInt32 = 0, steps: Int, guidance: Double, guidanceRescale: Double = 0,
        negative: String? = nil
    ) {
        self.prompt = prompt
        self.seed = seed
        self.steps = steps
        self.guidance = guidance
        self.guidanceRescale = guidanceRescale
        self.negative = negative
    }

    /// Takes over another request's steps, guidance and its rescaling.
    public mutating func take(samplingOf other: Request) {
        (steps, guidance, guidanceRescale) = (other.steps, other.guidance, other.guidanceRescale)
    }
}

/// An image, the latents it was decoded from, and where the time went.
public struct Drawn: Sendable {
    public let pixels: Tensor  // (1, 3, h, w), in [0, 1]
    public let latents: Tensor  // (1, 4, y, x)
    public let seconds: [Stage]
    public let notes: [Sentence]

    public struct Stage: Equatable, Codable, Sendable {
        public let name: Sentence
        public let seconds: Double
    }
}

/// Called with the stage, and how many of its steps are done of how many. Throwing stops the work.
public typealias Report = (_ stage: String, _ done: Int, _ total: Int) throws -> Void

/// Text to image with a bundle alone: text encoders, the UNet in the scheduler's loop, the VAE's decoder.
public struct Pipeline {
    private let store: ModelStore
    private let facts: PipelineFacts

    /// Throws InputError when the bundle can't draw.
    public init(_ store: ModelStore) throws {
        guard let facts = store.bundle.manifest.pipeline else {
            let parts = store.bundle.manifest.components.map(\.name).joined(separator: ", ")
            throw InputError(
                "this bundle can't draw, it holds \(parts) alone; make a whole one with  lorarar export pipeline")
        }
        self.store = store
        self.facts = facts
    }

    /// The bundle's own steps, guidance and its rescaling.
    public func defaults(_ prompt: String, seed: UInt32 = 0) -> Request {
        Request(
            prompt: prompt, seed: seed, steps: facts.steps, guidance: facts.guidance,
            guidanceRescale: facts.guidanceRescale)
    }

    /// One image. Throws InputError for a request that can't be drawn, or an image that is not finite.
    public func draw(
        _ request: Request, with loras: LoraInputs, report: Report = { _, _, _ in }
    ) throws -> Drawn {
        guard request.guidance.isFinite, request.guidance >= 1 else {
            throw InputError("guidance \(request.guidance) is not possible; give 1 (off) or more, 3 to 7 are usual")
        }
        guard (0...1).contains(request.guidanceRescale) else {
            throw InputError("a guidance rescale of \(request.guidanceRescale) is not possible; give 0 (off) to 1")
        }
        if request.negative != nil, request.guidance == 1 {
            throw InputError(
                "a negative prompt means nothing without guidance; give a guidance above 1, or leave it out")
        }
        try request.composed?.check(request.prompt)
        let scheduler = try Schedulers.make(facts.scheduler, steps: request.steps)
        var stages: [Drawn.Stage] = []
        func stage<Result>(_ name: Sentence, _ work: () throws -> Result) rethrows -> Result {
            let start = Clock.now()
            defer { stages.append(.init(name: name, seconds: Clock.now() - start)) }
            return try work()
        }
        let reader = ConditionReader(store: store, facts: facts)
        let (condition, notes) = try stage(Sentence("text")) { try reader.read(request, with: loras, report) }
        if !store.isLoaded("unet") { try report("loading the UNet", 0, 1) }
        let latents: Tensor
        do {
            defer { store.release("unet") }  // before the decoder is loaded, and also where a step fails
            let unet = try stage(Sentence("load the UNet")) { try store.loaded("unet") }
            latents = try stage(Sentence("steps")) { try loop(unet, scheduler, condition, request, loras, report) }
        }
        try requireFinite(latents)
        try report("decoding", 0, 1)
        let pixels = try stage(Sentence("decode")) { try decode(latents) }
        try requireFinite(pixels)
        return Drawn(pixels: pixels, latents: latents, seconds: stages, notes: notes)
    }

    /// Refuses latents or pixels with NaN or ∞. The decoder's own clamp makes a picture of some such latents.
    private func requireFinite(_ values: Tensor) throws {
        guard !values.isFinite else { return }
        let mend =
            try store.bundle.component("unet").isHalf
            ? Sentence("this bundle's precision overflows; export it in fp32")
            : Sentence("use smaller strengths or less guidance")
        throw InputError("the image is not finite: \(mend)", isOfResult: true)
    }

    private func loop(
        _ unet: Model, _ scheduler: any Scheduler, _ condition: Condition, _ request: Request,
        _ loras: LoraInputs, _ report: Report
    ) throws -> Tensor {
        guard let sample = unet.component.input("sample") else {
            throw InputError("this bundle's UNet has no sample; export the bundle again")
        }
        let shape = sample.fixedShape(store.bundle.layout.stackedRank)
        let one = [1] + shape.dropFirst()
        let step = try GuidedStep(
            unet: unet, condition: condition, shape: shape, request: request, pixels: facts.pixels, loras: loras)
        var latents = scheduler.start(Noise.normal(count: one.reduce(1, *), seed: request.seed))
        for (i, time) in scheduler.timesteps.enumerated() {
            try report("drawing", i, scheduler.timesteps.count)
            latents = scheduler.step(try step.predict(scheduler.scale(latents, i), time: time, step: i), i, latents)
        }
        return Tensor(latents, shape: one)
    }

    private func decode(_ latents: Tensor) throws -> Tensor {
        let decoder = try store.loaded("vae_decoder")
        guard let spec = decoder.component.input("latents"), let tile = spec.fixedShape(0).last else {
            throw InputError("this bundle's VAE takes no latents; export the bundle again")
        }
        defer { store.release("vae_decoder") }
        return try Tiles.decode(latents, tile: tile) { part in
            guard let image = try decoder.perform(["latents": part.converted(to: spec.dtype)])["image"] else {
                throw InputError("this bundle's VAE gives no image; export the bundle again")
            }
            return image.converted(to: .float32)
        }
    }
}

/// The UNet's guided prediction. The UNet is run on as many rows as it takes; the last run is filled up with its own
/// last row.
private struct GuidedStep {
    private let unet: Model
    private let shape: [Int]  // of the sample: (batch, 4, y, x)
    private let timeWidth: Int
    private let request: Request
    private var runs: [[Reading]: [[String: Tensor]]] = [:]  // what is told in each run, beside what is bound

    /// Binds what stays the same in every step.
    init(
        unet: Model, condition: Condition, shape: [Int], request: Request, pixels: Int, loras: LoraInputs
    ) throws {
        self.unet = unet
        self.shape = shape
        self.request = request
        let network = unet.component
        func width(_ input: String) -> Int {
            network.input(input)?.fixedShape(0).last ?? 0
        }
        timeWidth = width(Sinusoids.timestep)
        let side = Float(pixels)
        let sizes = Sinusoids.of([side, side, 0, 0, side, side], width: width(Sinusoids.size) / Sinusoids.sizes)
        var kept = loras.stack(of: network)
        kept[Sinusoids.size] = try network.tensor(
            Sinusoids.size, [[Float]](repeating: sizes, count: shape[0]))
        for step in 0..<request.steps {
            let readings = request.terms(step).map(\.reading)
            guard runs[readings] == nil else { continue }
            runs[readings] = try stride(from: 0, to: readings.count, by: shape[0]).map { start in
                let given = (start..<start + shape[0]).map { readings[min($0, readings.count - 1)] }
                let rows = given.compactMap { condition.rows[$0] }
                var told = try loras.coefficients(of: network, rows: given.map(\.share))
                told["encoder_hidden_states"] = try network.tensor("encoder_hidden_states", rows.map(\.states))
                told["text_embeds"] = try network.tensor("text_embeds", rows.map(\.pooled))
                return told
            }
        }
        if let (readings, told) = runs.first, runs.count == 1, told.count == 1 {
            kept.merge(told[0]) { _, new in new }
            runs[readings] = [[:]]
        }
        try unet.bind(kept)
    }

    func predict(_ sample: [Float], time: Float, step: Int) throws -> [Float] {
        let terms = request.terms(step)
        let predicted = try (runs[terms.map(\.reading)] ?? []).flatMap { try run(sample, time, $0) }
        let first = request.guidance > 1 ? 1 : 0
        var said = [Float](repeating: 0, count: sample.count)
        for (term, row) in zip(terms, predicted).dropFirst(first) {
            for at in said.indices { said[at] += term.sign * row[at] }
        }
        guard first == 1 else { return said }
        let guidance = Float(request.guidance)
        let guided = zip(predicted[0], said).map { without, told in without + guidance * (told - without) }
        return Self.rescaled(guided, said, share: request.guidanceRescale)
    }

    /// Brings a guided prediction back to the spread of the prompt's own, by a share from 0 to 1. Guidance makes its
    /// numbers larger, and so colours too strong (arXiv 2305.08891, section 3.4).
    private static func rescaled(_ guided: [Float], _ told: [Float], share: Double) -> [Float] {
        guard share > 0, case let larger = spread(guided), larger > 0 else { return guided }
        let factor = Float(share * spread(told) / larger + (1 - share))
        return guided.map { $0 * factor }
    }

    private static func spread(_ values: [Float]) -> Double {
        let mean = values.reduce(0.0) { $0 + Double($1) } / Double(values.count)
        let squares = values.reduce(0.0) { $0 + (Double($1) - mean) * (Double($1) - mean) }
        return (squares / Double(values.count)).squareRoot()
    }

    private func run(_ sample: [Float], _ time: Float, _ told: [String: Tensor]) throws -> [[Float]] {
        var inputs = told
        inputs["sample"] = try unet.component.tensor("sample", [[Float]](repeating: sample, count: shape[0]))
        let times = Sinusoids.of([time], width: timeWidth)
        inputs[Sinusoids.timestep] = try unet.component.tensor(
            Sinusoids.timestep, [[Float]](repeating: times, count: shape[0]))
        guard let found = try unet.perform(inputs)["noise_pred"] else {
            throw InputError("this bundle's UNet gives no noise_pred; export the bundle again")
        }
        return (0..<shape[0]).map { Array(found.row($0)) }
    }
}
