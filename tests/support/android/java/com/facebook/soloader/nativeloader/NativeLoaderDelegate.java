package com.facebook.soloader.nativeloader;

/** Named by NativeLoader's callers. */
public interface NativeLoaderDelegate {}
