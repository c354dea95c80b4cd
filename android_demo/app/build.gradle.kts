import java.util.Properties

plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.android)
}

// The miniature's LoRAs that are chosen in samples.properties, each with a picture of what it was trained on.
val chosen = Properties().apply { file("../samples.properties").inputStream().use { load(it) } }
val samples = tasks.register<Sync>("samples") {
    val dataset = file("../../models/miniature/dataset")
    for (role in listOf("contents", "styles")) {
        val names = chosen.getProperty(role).split(' ')
        val picture = if (role == "contents") "_0.png" else ".png"
        from(names.map { dataset.resolve("loras/$role/$it.safetensors") }) { into("samples/$role") }
        from(names.map { dataset.resolve("images/$role/$it$picture") }) {
            into("samples/$role")
            rename("_0\\.png$", ".png")
        }
    }
    into(layout.buildDirectory.dir("samples"))
}

android {
    namespace = "org.lorarar.demo"
    compileSdk = libs.versions.compileSdk.get().toInt()

    defaultConfig {
        applicationId = "org.lorarar.demo"
        minSdk = libs.versions.minSdk.get().toInt()
        targetSdk = libs.versions.targetSdk.get().toInt()
        versionCode = 1
        versionName = "0.1.0"
        ndk { abiFilters += "arm64-v8a" }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }

    sourceSets["main"].assets.srcDir(layout.buildDirectory.dir("samples"))
    // LoRAs and graphs hardly shrink, and would be unpacked at every start.
    androidResources { noCompress += listOf("onnx", "pte", "safetensors") }
    // Both runtimes bring libraries of the same C++ runtime.
    packaging { jniLibs { pickFirsts += "**/libc++_shared.so" } }
}

kotlin {
    compilerOptions {
        jvmTarget = org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_11
    }
}

tasks.named("preBuild") { dependsOn(samples) }

dependencies {
    implementation(project(":merger"))
    implementation(libs.onnxruntime.android)
    implementation(libs.executorch.android)
}
