import DemoCore
import Merger
import SwiftUI
import UIKit
import UniformTypeIdentifiers

/// A row of LoRAs with their pictures.
struct LoraPicker: View {
    let loras: [LibraryLora]
    let picked: [LibraryLora]
    let pick: @MainActor (LibraryLora) -> Void
    @State private var isRemoving = false
    @State private var asked: LibraryLora?
    @Environment(DemoModel.self) private var model

    var body: some View {
        ScrollView(.horizontal) {
            LazyHStack(spacing: 12) {
                ForEach(loras) { lora in
                    tile(lora)
                }
            }
            .padding(.vertical, 4)
        }
        .confirmationDialog(
            "Remove the file from this app?", isPresented: $isRemoving, titleVisibility: .visible, presenting: asked
        ) { lora in
            Button("Remove \(lora.name)", role: .destructive) { model.remove(lora) }
        }
    }

    private func tile(_ lora: LibraryLora) -> some View {
        Button {
            pick(lora)
        } label: {
            LoraTile(lora: lora, isSelected: picked.contains(lora))
        }
        .buttonStyle(.plain)
        .contextMenu {
            if lora.isImported {
                Button("Remove…", role: .destructive) { (asked, isRemoving) = (lora, true) }
            }
        }
    }
}

/// Brings in a LoRA of one's own.
struct ImportButton: View {
    let role: LoraRole
    @State private var isImporting = false
    @Environment(DemoModel.self) private var model

    var body: some View {
        Button {
            isImporting = true
        } label: {
            if role == .content {
                Label("Import a content LoRA…", systemImage: "square.and.arrow.down")
            } else {
                Label("Import a style LoRA…", systemImage: "square.and.arrow.down")
            }
        }
        .disabled(model.isImporting)
        .fileImporter(isPresented: $isImporting, allowedContentTypes: [.data, .folder]) { result in
            take(result)
        }
    }

    private func take(_ result: Result<URL, any Error>) {
        switch result {
        case .success(let url):
            // What is picked may be read only between these two calls.
            let isScoped = url.startAccessingSecurityScopedResource()
            Task {
                await model.add(url, as: role)
                if isScoped { url.stopAccessingSecurityScopedResource() }
            }
        case .failure(let error):
            model.failure = Sentence("\(error.localizedDescription)")
        }
    }
}

private struct LoraTile: View {
    let lora: LibraryLora
    let isSelected: Bool
    // Grows with the user's text size.
    @ScaledMetric private var side: CGFloat = 72

    var body: some View {
        VStack(spacing: 4) {
            picture
                .frame(width: side, height: side)
                .clipShape(RoundedRectangle(cornerRadius: 10))
                .overlay {
                    RoundedRectangle(cornerRadius: 10)
                        .stroke(isSelected ? Color.accentColor : Color.clear, lineWidth: 3)
                }
            Text(lora.name)
                .font(.caption)
                .lineLimit(2)
                .multilineTextAlignment(.center)
                .frame(width: side + 16)
        }
        .accessibilityElement(children: .ignore)
        .accessibilityLabel(lora.name)
        .accessibilityAddTraits(isSelected ? .isSelected : [])
    }

    @ViewBuilder private var picture: some View {
        if let file = lora.thumbnail, let image = UIImage(contentsOfFile: file.path) {
            Image(uiImage: image)
                .resizable()
                .scaledToFill()
        } else {
            Image(systemName: "doc")
                .font(.title)
                .frame(maxWidth: .infinity, maxHeight: .infinity)
                .background(Color.secondary.opacity(0.15))
        }
    }
}
