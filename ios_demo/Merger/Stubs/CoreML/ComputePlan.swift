// The part of Core ML (iOS 17.4) that says where operations would run, declared as its Swift overlay declares it.
import Foundation

public final class MLCPUComputeDevice: Sendable {}
public final class MLGPUComputeDevice: Sendable {}
public final class MLNeuralEngineComputeDevice: Sendable {}

public enum MLComputeDevice: Sendable {
    case cpu(MLCPUComputeDevice)
    case gpu(MLGPUComputeDevice)
    case neuralEngine(MLNeuralEngineComputeDevice)
}

public enum MLModelStructure {
    case neuralNetwork
    case program(Program)
    case pipeline(Pipeline)
    case unsupported

    public struct Program {
        public let functions: [String: Function]

        public struct Function {
            public let block: Block
        }

        public struct Block {
            public let operations: [Operation]
        }

        public struct Operation {
            public let operatorName: String
            public let blocks: [Block]
        }
    }

    public struct Pipeline {
        public let subModelNames: [String]
        public let subModels: [MLModelStructure]
    }
}

public final class MLComputePlan {
    public struct DeviceUsage {
        public let supported: [MLComputeDevice]
        public let preferred: MLComputeDevice
    }

    public let modelStructure: MLModelStructure

    init(_ modelStructure: MLModelStructure) {
        self.modelStructure = modelStructure
    }

    public static func load(contentsOf url: URL, configuration: MLModelConfiguration) async throws -> MLComputePlan {
        guard let plan = StandIn.plan else { throw StandIn.Fault("the system has no plan") }
        return MLComputePlan(plan())
    }

    /// The operator's name says it; nil for constants.
    public func deviceUsage(for operation: MLModelStructure.Program.Operation) -> DeviceUsage? {
        let device: MLComputeDevice? =
            switch operation.operatorName {
            case "conv": .neuralEngine(MLNeuralEngineComputeDevice())
            case "matmul": .gpu(MLGPUComputeDevice())
            case "const": nil
            default: .cpu(MLCPUComputeDevice())
            }
        return device.map { DeviceUsage(supported: [$0], preferred: $0) }
    }
}

extension StandIn {
    /// A pipeline of a program for each list of operators.
    public static func structure(_ programs: [[String]]) -> MLModelStructure {
        let parts = programs.map { names in
            let operations = names.map { MLModelStructure.Program.Operation(operatorName: $0, blocks: []) }
            let main = MLModelStructure.Program.Function(block: .init(operations: operations))
            return MLModelStructure.program(.init(functions: ["main": main]))
        }
        return .pipeline(.init(subModelNames: [], subModels: parts))
    }
}
