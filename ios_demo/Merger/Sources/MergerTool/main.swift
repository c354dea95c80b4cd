// merger-tool: the engine on a computer. On a Mac it runs Core ML bundles, on Linux ONNX ones.
import Foundation
import Merger

let usage = """
    usage: merger-tool check BUNDLE
           merger-tool merge BUNDLE LORA... [--strengths X,Y,...] [-o TENSORS]
           merger-tool generate BUNDLE [LORA...] --prompt P [--strengths X,Y,...] [--steps N] [--guidance G]
                       [--guidance-rescale X] [--guidance-without-lora]
                       [--subject W --subject-class W [--composed-share X]] [--seed S] [--negative P] [-o TENSORS]
           merger-tool benchmark BUNDLE --component C [--runs N] [--warmup N] [--threads N] [-o RECORD]
           merger-tool lora LORA... [-o TENSORS]
    LORA...: a content and a style LoRA, then others beside them; one LoRA is taken as it is.
    TENSORS is a safetensors file: the stack and the coefficients, the image's pixels and latents, or each layer's ΔW.
    Everywhere: [--units all|cpu-and-neural-engine|cpu-and-gpu|cpu-only] [--library LIBONNXRUNTIME] [--cache FOLDER]
    """

func fail(_ sentence: String, code: Int32 = 2) -> Never {
    FileHandle.standardError.write(Data("error: \(sentence)\n".utf8))
    exit(code)
}

do {
    var arguments = try Arguments(Array(CommandLine.arguments.dropFirst()))
    let command = try arguments.word("a command")
    let commands = ["check": check, "merge": merge, "generate": generate, "benchmark": benchmark, "lora": lora]
    guard let work = commands[command] else {
        fail("there is no command '\(command)'; valid are \(commands.keys.sorted().joined(separator: ", "))\n\(usage)")
    }
    exit(try await work(&arguments))
} catch let error as InputError {
    fail(error.description)
} catch {
    fail("\(error.localizedDescription); see merger-tool without arguments")
}
