package org.lorarar.merger

import java.io.File
import java.io.IOException

/** An opened, verified bundle: a folder with a manifest, the artifacts and golden tensors. */
class Bundle private constructor(val path: File, val manifest: Manifest) {
    val base: String get() = manifest.base
    val target: String get() = manifest.target
    val precision: String get() = manifest.precision
    val layout: Layout get() = manifest.layout
    val components: Set<String> get() = manifest.components.keys

    /** What the manifest says of drawing; null for a bundle that can't draw. */
    val pipeline: PipelineFacts? get() = manifest.pipeline

    /** Whether the hypernetwork was trained; null without one. */
    val trained: Boolean? get() = manifest.hypernetwork?.trained

    /** The kinds of attention linears whose coefficients the hypernetwork predicts; none without one. */
    val learned: List<String> get() = manifest.hypernetwork?.learned.orEmpty()

    /** What both LoRAs of a pair get in a layer whose coefficients are not predicted. */
    val rule: Float get() = if (manifest.hypernetwork?.kvRule == "sum") 1f else 0.5f

    /** The roles as the artifacts take them; null where these take no LoRA. */
    val roles: TensorSpec?
        get() = component(if ("unet" in components) "unet" else "hypernet").inputs.firstOrNull { it.name == Layout.ROLES }

    /** SHA-256 of the manifest's file. */
    val manifestSha256: String get() = Digest.tree(File(path, MANIFEST)).sha256

    /** One component, or InputError with those that the bundle has. */
    fun component(name: String): Component {
        val facts = manifest.components[name]
            ?: throw InputError("%s: the bundle has no %s, only %s", path, shorten(name, 40), components.joinToString())
        return Component(name, path, facts)
    }

    companion object {
        const val MANIFEST = "manifest.json"
        private const val MAX_MANIFEST_BYTES = 16L shl 20
        private const val SCHEMA_VERSION = 2L

        /** Over twice what SDXL's manifest can hold: 980 modules, and in 4 components the roles of 1024 ranks and 8 LoRAs. */
        private const val MAX_MANIFEST_VALUES = 100_000

        /**
         * Read and verify a bundle: schema, names, paths, sizes, hashes. Raises InputError naming what is wrong.
         *
         * With [only], the files of that component alone are verified: a benchmark copies no others to a phone.
         * A bundle that [seals] hold is not hashed again. [progress] hears the bytes that are verified, of how many.
         */
        fun open(
            folder: File, only: String? = null, seals: Seals? = null, progress: (Long, Long) -> Unit = { _, _ -> },
        ): Bundle {
            try {
                val bundle = Bundle(folder, readManifest(folder))
                BundleChecks(bundle).check()
                if (only != null) bundle.component(only)
                if (seals == null || !seals.hold(folder)) {
                    verify(bundle, only, progress)
                    if (only == null) seals?.put(folder)
                }
                return bundle
            } catch (error: IOException) {
                throw InputError("%s can't be read (%s); copy the bundle again", folder, error.message)
            }
        }

        /** The valid manifest of a folder; of the files that it names nothing is known. InputError as [open]. */
        internal fun readManifest(folder: File): Manifest {
            val path = File(folder, MANIFEST)
            if (!path.isFile) {
                throw InputError(
                    "%s: not a bundle (no %s); make one with  lorarar export pipeline --target onnx",
                    folder, MANIFEST,
                )
            }
            if (path.length() > MAX_MANIFEST_BYTES) {
                throw InputError("%s: %s bytes is too large for a manifest; export the bundle again", path, path.length())
            }
            val manifest = try {
                Json.parse(path.readBytes(), MAX_MANIFEST_VALUES)
            } catch (error: JsonError) {
                throw InputError("%s: not valid JSON (%s); export the bundle again", path, error.message)
            }
            val version = manifest.asObject()?.get("schema_version")
            if ((version as? Number)?.toDouble() != SCHEMA_VERSION.toDouble()) {
                throw InputError(
                    "%s: schema version %s is unknown, this app reads %s; export the bundle again",
                    path, shorten(version.toString(), 40), SCHEMA_VERSION,
                )
            }
            Schemas.manifest.fault(manifest)?.let {
                throw InputError("%s: %s (it breaks the schema); export the bundle again", path, shorten(it, 240))
            }
            return Manifest.of(manifest.asObject()!!)
        }

        /** Every file that the manifest names: (what it is, its entry). */
        private fun files(bundle: Bundle, only: String?): List<Pair<Sentence, FileEntry>> {
            val found = ArrayList<Pair<Sentence, FileEntry>>()
            for ((name, facts) in bundle.manifest.components) {
                if (only != null && name != only) continue
                found += Sentence("%s", name) to facts.artifact
                found += Sentence("%s's golden file", name) to facts.golden
            }
            val pipeline = bundle.pipeline
            if (pipeline == null || only != null) return found
            for ((name, entry) in pipeline.tokenizers) found += Sentence("the tokenizer of %s", name) to entry.file
            return found + (Sentence("the golden image") to pipeline.golden.file)
        }

        private fun verify(bundle: Bundle, only: String?, progress: (Long, Long) -> Unit) {
            val files = files(bundle, only)
            val total = files.sumOf { (_, entry) -> entry.bytes }
            var done = 0L
            val root = bundle.path.canonicalFile
            for ((what, entry) in files) {
                val path = File(bundle.path, entry.file)
                if (!(path.isFile || path.isDirectory) || !path.canonicalFile.path.startsWith(root.path + File.separator)) {
                    throw InputError(
                        "%s: %s (%s) is missing or outside the bundle; export the bundle again",
                        bundle.path, what, entry.file,
                    )
                }
                val found = Digest.tree(path) { count ->
                    done += count
                    progress(done, total)
                }
                if (found.bytes != entry.bytes || found.sha256 != entry.sha256) {
                    throw InputError(
                        "%s: damaged or changed since its export (its SHA-256 differs); export the bundle again",
                        path,
                    )
                }
            }
        }
    }
}

/** The toolkit's own schemas, which are this library's resources. */
object Schemas {
    val manifest: JsonSchema by lazy { load("manifest.schema.json") }
    val record: JsonSchema by lazy { load("record.schema.json") }

    private fun load(name: String): JsonSchema {
        val stream = checkNotNull(Schemas::class.java.getResourceAsStream("/$name")) { "$name is missing in the app" }
        return JsonSchema(Json.parseObject(stream.use { it.readBytes() }))
    }
}
