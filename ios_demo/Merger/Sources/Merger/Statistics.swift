/// Numbers of a list of samples.
public enum Statistics {
    /// Linear interpolation between the sorted samples, at position (n − 1) · percent / 100. There must be some.
    public static func percentile(_ samples: [Double], _ percent: Double) -> Double {
        percentile(sorted: samples.sorted(), percent)
    }

    static func percentile(sorted: [Double], _ percent: Double) -> Double {
        let position = Double(sorted.count - 1) * percent / 100
        let below = Int(position)
        let above = min(below + 1, sorted.count - 1)
        return sorted[below] + (sorted[above] - sorted[below]) * (position - Double(below))
    }
}
