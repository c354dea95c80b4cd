import XCTest

@testable import Merger

final class ParityTests: XCTestCase {
    private let tolerance = Tolerance(psnrDb: 100, maxError: 1e-5)

    private func output() throws -> Tensor {
        try Golden.input(GoldenInput(shape: [6, 50, 400], source: .generated(seed: 9, scale: 1)), dtype: .float32)
    }

    private func changed(_ change: (inout [Float]) -> Void) throws -> Tensor {
        var values = try output().floats
        change(&values)
        return Tensor(values, shape: [6, 50, 400])
    }

    func testEqualTensorsPass() throws {
        let difference = Parity.compare("x", golden: Golden.summarise(try output()), tensor: try output())
        XCTAssertEqual(difference, Difference(output: "x", psnrDb: .infinity, maxError: 0, delta: nil))
    }

    func testWrongTensorsFail() throws {
        let golden = Golden.summarise(try output())
        let free = Set(0..<120_000).subtracting(Golden.positions(120_000)).min()!  // where only statistics see it
        let wrong: [(String, Tensor)] = [
            ("sign", try changed { for i in $0.indices { $0[i] = -$0[i] } }),
            ("layers swapped", try changed { $0 = Array($0[20_000..<40_000] + $0[..<20_000] + $0[40_000...]) }),
            ("one layer off by 1e-4", try changed { for i in 60_000..<80_000 { $0[i] *= 1.0001 } }),
            ("one NaN", try changed { $0[free] = .nan }),
            ("zeros", Tensor.zeros([6, 50, 400])),
            ("one layer missing", Tensor(Array(try output().floats[..<100_000]), shape: [5, 50, 400])),
            (
                "transposed",
                try changed { values in
                    for layer in 0..<6 {
                        let old = Array(values[layer * 20_000..<(layer + 1) * 20_000])
                        for i in 0..<50 { for j in 0..<400 { values[layer * 20_000 + j * 50 + i] = old[i * 400 + j] } }
                    }
                }
            ),
        ]
        for (name, tensor) in wrong {
            let difference = Parity.compare("x", golden: golden, tensor: tensor)
            XCTAssertFalse(difference.within(tolerance), name)
            XCTAssertTrue(
                Parity.reason([difference], tolerance)?.description.contains("allowed are 1e-05 and 100 dB") == true,
                name)
        }
    }

    func testPsnrByHand() {
        XCTAssertEqual(Parity.psnrDb([2, 0], [2, 0.2]), 20 * log10(2 / 0.02.squareRoot()), accuracy: 1e-9)
        XCTAssertEqual(Parity.psnrDb([1], [.infinity]), -.infinity)
        XCTAssertEqual(Parity.psnrDb([0, 0], [0, 1]), -.infinity)
    }

    func testTheOutputWhoseLorasAreWorstIsTold() {
        func one(_ gain: Double, _ cosine: Double) -> Difference {
            let delta = Delta(gain: gain, cosine: cosine, snrDb: 0)
            return Difference(output: "x", psnrDb: 0, maxError: 0, delta: delta)
        }
        let none = Difference(output: "x", psnrDb: 0, maxError: 0)
        XCTAssertEqual(Parity.farthestDelta([none, one(1.01, 1), one(1, 0.5), one(0.8, 1)])?.cosine, 0.5)
        XCTAssertEqual(Parity.farthestDelta([one(1, .nan), one(0, 0)])?.gain, 1)
        XCTAssertNil(Parity.farthestDelta([none]))
    }

    func testWhatLorasChangeIsHeldToABoundOfItsOwn() {
        let tolerance = Tolerance(psnrDb: 20, maxError: 0.5, delta: DeltaTolerance(gainError: 0.1, cosine: 0.99))
        let whole = [Double](repeating: 1, count: 8)
        let base = whole.enumerated().map { $1 - (Double($0) + 1) / 100 }
        func difference(_ share: Double, tilt: Double = 0) -> Difference {
            let output = zip(whole, base).enumerated().map { at, pair in
                pair.1 + (pair.0 - pair.1) * (share + (at % 2 == 0 ? tilt : -tilt))
            }
            let delta = Parity.compareDelta(
                reference: whole, referenceWithout: base, output: output, without: base)
            return Difference(output: "x", psnrDb: 50, maxError: 0.01, delta: delta)
        }
        XCTAssertTrue(difference(1).within(tolerance))
        XCTAssertTrue(difference(0.95).within(tolerance))
        for wrong in [difference(0.5), difference(1.2), difference(-1), difference(1, tilt: 0.5), difference(.nan)] {
            XCTAssertFalse(wrong.within(tolerance))
            let reason = Parity.reason([wrong], tolerance)?.description ?? ""
            XCTAssertTrue(reason.contains("the LoRAs' effect on x has gain"), reason)
            XCTAssertTrue(reason.hasSuffix("allowed are 1 ± 0.1 and 0.99"), reason)
        }
        let untold = Difference(output: "x", psnrDb: 50, maxError: 0.01)
        XCTAssertFalse(untold.within(tolerance))
        XCTAssertTrue(untold.within(Tolerance(psnrDb: 20, maxError: 0.5)))
    }

    func testPixelsAreRoundedToEven() {
        let values: [Float] = [0.5 / 255, 1.5 / 255, 1, -0.2, 0, 2]
        let image = PixelImage(Tensor(values, shape: [1, 3, 1, 2]))
        XCTAssertEqual([image.width, image.height], [2, 1])
        XCTAssertEqual(image.rgba, [0, 255, 0, 255, 2, 0, 255, 255])
    }
}
