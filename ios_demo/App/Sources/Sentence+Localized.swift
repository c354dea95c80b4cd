import Foundation
import Merger

extension Sentence {
    /// The sentence in the user's language, where the app's string catalog has it, else in English.
    var localized: String {
        said { key in Bundle.main.localizedString(forKey: key, value: nil, table: nil) }
    }
}
