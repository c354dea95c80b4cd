import SwiftUI

@MainActor @preconcurrency
public protocol ChartContent {}

public protocol Plottable {}
extension Int: Plottable {}
extension Float: Plottable {}
extension String: Plottable {}

public struct PlottableValue<Value: Plottable> {
  public static func value(_ label: LocalizedStringKey, _ value: Value) -> PlottableValue<Value> {
    fatalError()
  }
}

public struct Marked: ChartContent {}

public struct BarMark: ChartContent {
  public init<X: Plottable, Y: Plottable>(
    x: PlottableValue<X>, yStart: PlottableValue<Y>, yEnd: PlottableValue<Y>
  ) {}
}

public struct LineMark: ChartContent {
  public init<X: Plottable, Y: Plottable>(x: PlottableValue<X>, y: PlottableValue<Y>) {}
}

extension ChartContent {
  public func foregroundStyle<D: Plottable>(by value: PlottableValue<D>) -> some ChartContent {
    Marked()
  }
  public func opacity(_ opacity: Double) -> some ChartContent { Marked() }
}

public struct Tuple<Parts>: ChartContent {}

@resultBuilder
public struct ChartContentBuilder {
  public static func buildBlock<Content: ChartContent>(_ content: Content) -> Content { content }
  public static func buildBlock<each Content: ChartContent>(_ content: repeat each Content)
    -> Tuple<(repeat each Content)>
  {
    fatalError()
  }
}

extension ForEach: ChartContent where Content: ChartContent {
  public init(_ data: Data, @ChartContentBuilder content: @escaping (Data.Element) -> Content)
  where Data.Element: Identifiable, ID == Data.Element.ID { fatalError() }
}

public struct Chart<Content: ChartContent>: Leaf {
  public init(@ChartContentBuilder content: () -> Content) {}
}

extension View {
  public func chartXAxisLabel(_ key: LocalizedStringKey) -> some View { EmptyView() }
  public func chartYAxisLabel(_ key: LocalizedStringKey) -> some View { EmptyView() }
}
