package com.facebook.soloader.nativeloader;

/** Made by NativeLoader's callers, and never asked. */
public final class SystemDelegate implements NativeLoaderDelegate {}
