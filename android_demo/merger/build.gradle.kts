// The engine: plain Kotlin that names no class of Android, so that its tests run on any computer.
plugins {
    alias(libs.plugins.kotlin.jvm)
    `java-test-fixtures`
}

val repository = rootDir.parentFile

// The toolkit's own schemas: the app refuses what Python refuses.
val schemas = tasks.register<Copy>("schemas") {
    from("../../runtime_py/manifest.schema.json", "../../benchmarks/record.schema.json")
    into(layout.buildDirectory.dir("schemas"))
}

// Bundles and results that Python makes and the tests compare with; `make .venv/ready` first.
val exported = tasks.register<Exec>("exported") {
    workingDir = repository
    commandLine(".venv/bin/python", "-m", "pytest", "-q", "-m", "apps", "tests/android_demo", "-k", "what_gradles_tests_read")
}

java {
    sourceCompatibility = JavaVersion.VERSION_11
    targetCompatibility = JavaVersion.VERSION_11
}

kotlin {
    compilerOptions {
        jvmTarget = org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_11
    }
}

sourceSets["main"].resources.srcDir(schemas)

tasks.test {
    dependsOn(exported)
    val data = repository.resolve("build/android")
    systemProperty("lorarar.golden", repository.resolve("tests/golden"))
    systemProperty("lorarar.exported", data.resolve("exported"))
    systemProperty("lorarar.results", data.resolve("results"))
    maxHeapSize = "512m"
    // Qualcomm's emulator is in its wheel for Linux on x86-64 alone: pytest -m apps tests/android_demo runs this class.
    filter { excludeTestsMatching("org.lorarar.merger.QnnTest") }
}

dependencies {
    // The app brings the same classes in the archive for Android.
    compileOnly(libs.onnxruntime.desktop)
    testFixturesImplementation(libs.junit)
    testImplementation(libs.onnxruntime.desktop)
    testImplementation(libs.junit)
}
