import DemoCore
import Merger
import SwiftUI

/// A picture from words, with the picked LoRAs.
struct GenerateView: View {
    @Environment(DemoModel.self) private var model

    private var guidance: String { String(format: "%.1f", model.request.guidance) }

    var body: some View {
        @Bindable var model = model
        NavigationStack {
            Form {
                Section("Prompt") {
                    TextField("Prompt", text: $model.prompt, axis: .vertical).asWritten()
                    if let hint = model.hint {
                        Label(hint.localized, systemImage: "questionmark.bubble")
                    }
                    Button("Use the LoRAs' own words") { self.model.useOwnWords() }
                }
                Section {
                    Stepper("Steps: \(model.request.steps)", value: $model.request.steps, in: 1...DemoModel.mostSteps)
                    LabeledContent("Seed") {
                        TextField("Seed", text: $model.seed)
                            .keyboardType(.numberPad)
                            .multilineTextAlignment(.trailing)
                    }
                    LabeledContent("Guidance", value: guidance)
                    Slider(value: $model.request.guidance, in: 1...DemoModel.mostGuidance, step: 0.5) {
                        Text("Guidance")
                    }
                    .accessibilityValue(guidance)
                    Toggle("Guidance without LoRAs", isOn: $model.request.guidanceWithoutLora)
                }
                if model.hasPair {
                    Section {
                        Toggle("Begin with each LoRA alone", isOn: $model.isComposed)
                        if model.isComposed {
                            LabeledContent("Subject") { TextField("Subject", text: $model.subject).asWritten() }
                            LabeledContent("Its class") {
                                TextField("Its class", text: $model.subjectClass).asWritten()
                            }
                        }
                    } footer: {
                        Text("The first half of the steps takes twice the passes, and shows more of both LoRAs")
                    }
                }
                Section {
                    if model.picked.isEmpty {
                        Text("With the base model: no LoRA is picked")
                    } else {
                        Text("With \(model.pickedNames)")
                    }
                    LeftOutRows()
                    if let reason = model.onlyMerges {
                        Label(reason.localized, systemImage: "exclamationmark.triangle")
                    }
                    Button("Draw") { self.model.startDrawing() }
                        .disabled(!model.canDraw)
                    WorkRow()
                }
                if let picture = model.picture {
                    PictureSection(picture: picture)
                }
            }
            .navigationTitle("Generate")
        }
    }
}

private struct PictureSection: View {
    let picture: ShownPicture

    var body: some View {
        Section("Picture") {
            if let image = picture.image.uiImage {
                Image(uiImage: image)
                    .resizable()
                    .scaledToFit()
                    .accessibilityLabel("Picture of: \(picture.prompt)")
                ShareLink(
                    item: Image(uiImage: image), preview: SharePreview(picture.prompt, image: Image(uiImage: image))
                ) {
                    Label("Save or share", systemImage: "square.and.arrow.up")
                }
            }
            ForEach(picture.notes, id: \.self) { note in
                Label(note.localized, systemImage: "info.circle")
            }
            ForEach(picture.stages, id: \.name) { stage in
                LabeledContent(stage.name.localized, value: String(format: "%.2f s", stage.seconds))
            }
        }
    }
}

extension TextField {
    /// The keyboard leaves the words as they are: it knows no `sks`, which a LoRA was trained with.
    fileprivate func asWritten() -> some View {
        autocorrectionDisabled().textInputAutocapitalization(.never)
    }
}
