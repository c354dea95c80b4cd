import java.util.Properties

plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.android)
}

// With -Pqnn the app runs bundles of `--target qnn` on a Snapdragon's NPU; its libraries add about 70 MB.
val withQnn = providers.gradleProperty("qnn").isPresent

/** The miniature's LoRAs that are chosen in samples.properties, each with a picture of what it was trained on. */
abstract class Samples : DefaultTask() {
    @get:InputFile
    abstract val chosen: RegularFileProperty

    @get:InputDirectory
    abstract val dataset: DirectoryProperty

    @get:OutputDirectory
    abstract val assets: DirectoryProperty

    @TaskAction
    fun copy() {
        val names = Properties().apply { chosen.get().asFile.inputStream().use { load(it) } }
        assets.get().asFile.deleteRecursively()
        for (role in listOf("contents", "styles")) for (name in names.getProperty(role).split(' ')) {
            val from = dataset.get().asFile
            val to = assets.get().asFile.resolve("samples/$role")
            from.resolve("loras/$role/$name.safetensors").copyTo(to.resolve("$name.safetensors"))
            val picture = if (role == "contents") "${name}_0.png" else "$name.png"
            from.resolve("images/$role/$picture").copyTo(to.resolve("$name.png"))
        }
    }
}

val samples = tasks.register<Samples>("samples") {
    chosen = file("../samples.properties")
    dataset = file("../../models/miniature/dataset")
}

android {
    namespace = "org.lorarar.demo"
    compileSdk = libs.versions.compileSdk.get().toInt()

    defaultConfig {
        applicationId = "org.lorarar.demo"
        minSdk = (if (withQnn) libs.versions.minSdkWithQnn else libs.versions.minSdk).get().toInt()
        targetSdk = libs.versions.targetSdk.get().toInt()
        versionCode = 1
        versionName = "0.1.0"
        ndk { abiFilters += "arm64-v8a" }
    }

    buildTypes {
        release {
            // Names in exceptions and records stay readable; almost all of the app's size is native libraries.
            isMinifyEnabled = false
            // A key of yours comes here. Android's debug key makes an APK that can be installed, not published.
            signingConfig = signingConfigs.getByName("debug")
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }

    // LoRAs and graphs hardly shrink, and would be unpacked at every start.
    androidResources { noCompress += listOf("onnx", "bin", "pte", "safetensors") }
    packaging {
        jniLibs {
            // Both runtimes bring libraries of the same C++ runtime.
            pickFirsts += "**/libc++_shared.so"
            // The NPU's own loader opens files by their paths; all other libraries are mapped from the APK.
            useLegacyPackaging = withQnn
        }
    }
}

androidComponents.onVariants { it.sources.assets?.addGeneratedSourceDirectory(samples, Samples::assets) }

kotlin {
    compilerOptions {
        jvmTarget = org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_11
    }
}

// The other test needs ExecuTorch's library for this computer: pytest -m apps tests/android_demo runs it.
tasks.withType<Test>().configureEach {
    filter { includeTestsMatching("org.lorarar.demo.ExecuTorchTest") }
}

dependencies {
    implementation(project(":merger"))
    implementation(libs.onnxruntime.android)
    // It names androidx.core and uses nothing of it, which would add a permission and components to the manifest.
    implementation(libs.executorch.android) { exclude(group = "androidx.core") }
    if (withQnn) {
        implementation(libs.qnn.provider)
        implementation(libs.qnn.runtime)
    }
    testImplementation(testFixtures(project(":merger")))
    testImplementation(libs.junit)
}
