import Charts
import Merger
import SwiftUI

/// Layer by layer, how the coefficients are spread over the columns: the median, and where 9 of 10 columns lie.
struct CoefficientChart: View {
    let coefficients: [LayerCoefficients]

    private struct Point: Identifiable {
        let layer: Int
        let role: String
        let spread: LayerCoefficients.Spread

        var id: String { "\(role) \(layer)" }
    }

    private var points: [Point] {
        coefficients.enumerated().flatMap { layer, values in
            [
                Point(layer: layer, role: Sentence("content").localized, spread: values.content),
                Point(layer: layer, role: Sentence("style").localized, spread: values.style),
            ]
        }
    }

    var body: some View {
        Chart {
            ForEach(points) { point in
                BarMark(
                    x: .value("Layer", point.layer), yStart: .value("5th percentile", point.spread.low),
                    yEnd: .value("95th percentile", point.spread.high)
                )
                .foregroundStyle(by: .value("LoRA", point.role))
                .opacity(0.3)
                LineMark(x: .value("Layer", point.layer), y: .value("Median", point.spread.median))
                    .foregroundStyle(by: .value("LoRA", point.role))
            }
        }
        .chartXAxisLabel("layer, from the image's input to its output")
        .chartYAxisLabel("coefficient")
        .frame(minHeight: 220)
        .accessibilityLabel("Coefficients of \(coefficients.count) layers")
        .accessibilityValue(summary.localized)
    }

    private var summary: Sentence {
        func middle(_ values: [Float]) -> String { String(format: "%.2f", values.sorted()[values.count / 2]) }
        guard !coefficients.isEmpty else { return Sentence("none") }
        let (content, style) = (coefficients.map(\.content.median), coefficients.map(\.style.median))
        return Sentence("median of the content \(middle(content)), of the style \(middle(style))")
    }
}
