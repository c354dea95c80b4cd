public struct UTType: Sendable {
  public static var data: UTType { UTType() }
}
