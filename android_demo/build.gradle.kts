plugins {
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.kotlin.android) apply false
    alias(libs.plugins.kotlin.jvm) apply false
}

// The version in gradle-wrapper.properties: a `gradle wrapper` of another Gradle would write its own there.
tasks.wrapper { gradleVersion = "8.14.3" }
