package org.lorarar.merger

/** What the engine is doing, which an app says in its user's language. */
enum class Stage {
    STARTING,
    COPYING_THE_BUNDLE,
    VERIFYING_THE_BUNDLE,
    MERGING,
    READING_THE_PROMPT,
    LOADING_THE_UNET,
    DRAWING,
    DECODING,
    LOADING_COLD,
    LOADING_WARM,
    WARMING_UP,
    TIMING,
    COMPARING,
}
