public struct UTType: Sendable {
  public static var data: UTType { UTType() }
  public static var folder: UTType { UTType() }
}
