// The engine. It names no class of Android: it is an Android library so that it may be compiled against the runtimes' AARs.
plugins {
    alias(libs.plugins.android.library)
    alias(libs.plugins.kotlin.android)
}

// The toolkit's own schemas: the app refuses what Python refuses.
val schemas = tasks.register<Copy>("schemas") {
    from("../../runtime_py/manifest.schema.json", "../../benchmarks/record.schema.json")
    into(layout.buildDirectory.dir("schemas"))
}

android {
    namespace = "org.lorarar.merger"
    compileSdk = libs.versions.compileSdk.get().toInt()

    defaultConfig {
        minSdk = libs.versions.minSdk.get().toInt()
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }

    sourceSets["main"].resources.srcDir(layout.buildDirectory.dir("schemas"))
}

kotlin {
    compilerOptions {
        jvmTarget = org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_11
    }
}

tasks.named("preBuild") { dependsOn(schemas) }

// The other tests read what Python exports: pytest -m apps tests/android_demo runs all of them.
tasks.withType<Test>().configureEach {
    filter { includeTestsMatching("org.lorarar.merger.JsonTest") }
}

dependencies {
    compileOnly(libs.onnxruntime.android)
    compileOnly(libs.executorch.android)
    testImplementation(libs.onnxruntime.desktop)
    testImplementation(libs.junit)
}
