import Foundation
import Observation
import UIKit
import UniformTypeIdentifiers

public struct Color: Leaf, Sendable {
  public static var accentColor: Color { fatalError() }
  public static var clear: Color { fatalError() }
  public static var secondary: Color { fatalError() }
  public func opacity(_ opacity: Double) -> Color { fatalError() }
}

public struct TextInputAutocapitalization: Sendable {
  public static var never: TextInputAutocapitalization { fatalError() }
}

public protocol ShapeStyle {}
extension Color: ShapeStyle {}
public struct HierarchicalShapeStyle: ShapeStyle {}
extension ShapeStyle where Self == HierarchicalShapeStyle {
  public static var secondary: HierarchicalShapeStyle { fatalError() }
}

public struct Font: Sendable {
  public static var caption: Font { fatalError() }
  public static var footnote: Font { fatalError() }
  public static var headline: Font { fatalError() }
  public static var largeTitle: Font { fatalError() }
  public static var subheadline: Font { fatalError() }
  public static var title: Font { fatalError() }
}

public struct Edge: Sendable {
  public struct Set: OptionSet, Sendable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }
    public static var vertical: Set { Set(rawValue: 3) }
    public static var all: Set { Set(rawValue: 15) }
  }
}

public enum TextAlignment: Sendable { case leading, center, trailing }

public protocol PrimitiveButtonStyle {}
public struct PlainButtonStyle: PrimitiveButtonStyle {}
extension PrimitiveButtonStyle where Self == PlainButtonStyle {
  public static var plain: PlainButtonStyle { fatalError() }
}

public protocol TextSelectability {}
public struct EnabledTextSelectability: TextSelectability {}
extension TextSelectability where Self == EnabledTextSelectability {
  public static var enabled: EnabledTextSelectability { fatalError() }
}

public struct AccessibilityTraits: OptionSet, Sendable {
  public let rawValue: Int
  public init(rawValue: Int) { self.rawValue = rawValue }
  public static var isSelected: AccessibilityTraits { AccessibilityTraits(rawValue: 1) }
}

public struct AccessibilityChildBehavior: Sendable {
  public static var ignore: AccessibilityChildBehavior { fatalError() }
  public static var combine: AccessibilityChildBehavior { fatalError() }
}

public struct Alignment: Sendable {
  public static var center: Alignment { fatalError() }
}

extension View {
  public func padding(_ length: CGFloat) -> some View { EmptyView() }
  public func padding(_ edges: Edge.Set = .all, _ length: CGFloat? = nil) -> some View {
    EmptyView()
  }
  public func frame(width: CGFloat? = nil, height: CGFloat? = nil, alignment: Alignment = .center)
    -> some View
  {
    EmptyView()
  }
  public func frame(
    minWidth: CGFloat? = nil, maxWidth: CGFloat? = nil, minHeight: CGFloat? = nil,
    maxHeight: CGFloat? = nil,
    alignment: Alignment = .center
  ) -> some View { EmptyView() }
  public func font(_ font: Font?) -> some View { EmptyView() }
  public func foregroundStyle<S: ShapeStyle>(_ style: S) -> some View { EmptyView() }
  public func background<V: View>(_ background: V) -> some View { EmptyView() }
  public func overlay<V: View>(alignment: Alignment = .center, @ViewBuilder content: () -> V)
    -> some View
  {
    EmptyView()
  }
  public func clipShape(_ shape: RoundedRectangle) -> some View { EmptyView() }
  public func scaledToFit() -> some View { EmptyView() }
  public func scaledToFill() -> some View { EmptyView() }
  public func lineLimit(_ number: Int?) -> some View { EmptyView() }
  public func multilineTextAlignment(_ alignment: TextAlignment) -> some View { EmptyView() }
  public func textSelection<S: TextSelectability>(_ selectability: S) -> some View { EmptyView() }
  public func buttonStyle<S: PrimitiveButtonStyle>(_ style: S) -> some View { EmptyView() }
  public func disabled(_ disabled: Bool) -> some View { EmptyView() }
  public func autocorrectionDisabled(_ disable: Bool = true) -> some View { EmptyView() }
  public func textInputAutocapitalization(_ autocapitalization: TextInputAutocapitalization?) -> some View {
    EmptyView()
  }
  public func keyboardType(_ type: UIKeyboardType) -> some View { EmptyView() }
  public func tag<V: Hashable>(_ tag: V) -> some View { EmptyView() }
  public func navigationTitle(_ titleKey: LocalizedStringKey) -> some View { EmptyView() }
  public func tabItem<V: View>(@ViewBuilder _ label: () -> V) -> some View { EmptyView() }
  public func contextMenu<Items: View>(@ViewBuilder menuItems: () -> Items) -> some View {
    EmptyView()
  }
  public func environment<T: AnyObject & Observable>(_ object: T?) -> some View { EmptyView() }
  public func onChange<Value: Equatable>(
    of value: Value, initial: Bool = false, _ action: @escaping () -> Void
  ) -> some View { EmptyView() }

  public func onReceive(
    _ publisher: NotificationCenter.Publisher, perform action: @escaping (Notification) -> Void
  ) -> some View { EmptyView() }

  public func task(
    priority: TaskPriority = .userInitiated,
    @_inheritActorContext _ action: @escaping @Sendable () async -> Void
  ) -> some View { EmptyView() }
  public func alert<A: View, M: View>(
    _ titleKey: LocalizedStringKey, isPresented: Binding<Bool>, @ViewBuilder actions: () -> A,
    @ViewBuilder message: () -> M
  ) -> some View { EmptyView() }
  public func confirmationDialog<A: View, T>(
    _ titleKey: LocalizedStringKey, isPresented: Binding<Bool>, titleVisibility: Visibility = .automatic,
    presenting data: T?, @ViewBuilder actions: (T) -> A
  ) -> some View { EmptyView() }
  public func fileImporter(
    isPresented: Binding<Bool>, allowedContentTypes: [UTType],
    onCompletion: @escaping (Result<URL, any Error>) -> Void
  ) -> some View { EmptyView() }
}

extension View {
  public func accessibilityLabel(_ key: LocalizedStringKey) -> some View { EmptyView() }
  @_disfavoredOverload public func accessibilityLabel<S: StringProtocol>(_ label: S) -> some View {
    EmptyView()
  }
  public func accessibilityValue(_ key: LocalizedStringKey) -> some View { EmptyView() }
  @_disfavoredOverload public func accessibilityValue<S: StringProtocol>(_ value: S) -> some View {
    EmptyView()
  }
  public func accessibilityHidden(_ hidden: Bool) -> some View { EmptyView() }
  public func accessibilityAddTraits(_ traits: AccessibilityTraits) -> some View { EmptyView() }
  public func accessibilityElement(children: AccessibilityChildBehavior) -> some View {
    EmptyView()
  }
}

extension URL {
  public func startAccessingSecurityScopedResource() -> Bool { false }
  public func stopAccessingSecurityScopedResource() {}
}

// Combine's part of Foundation.
extension NotificationCenter {
  public struct Publisher {}

  public func publisher(for name: Notification.Name, object: AnyObject? = nil) -> Publisher {
    Publisher()
  }
}
