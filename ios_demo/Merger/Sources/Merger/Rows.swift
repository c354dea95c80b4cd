/// The stretches of a strided array that lie together, as a row-major one has them.
enum Rows {
    /// Calls with the first element in row-major order, the number of elements and their first place in the memory.
    static func each(_ shape: [Int], _ strides: [Int], _ body: (Int, Int, Int) -> Void) {
        guard !shape.contains(0) else { return }
        let together = shape.isEmpty || strides.last == 1
        let length = together ? shape.last ?? 1 : 1
        let outer = together ? Array(shape.dropLast()) : shape
        var index = [Int](repeating: 0, count: outer.count)
        for row in 0..<outer.reduce(1, *) {
            body(row * length, length, zip(index, strides).reduce(0) { $0 + $1.0 * $1.1 })
            var axis = outer.count - 1
            while axis >= 0 {
                index[axis] += 1
                if index[axis] < outer[axis] { break }
                index[axis] = 0
                axis -= 1
            }
        }
    }
}
