package com.facebook.soloader.nativeloader;

/** Stands in for the loader that ExecuTorch's classes ask for their library. */
public final class NativeLoader {
    public static boolean isInitialized() {
        return true;
    }

    public static void init(NativeLoaderDelegate delegate) {}

    public static boolean loadLibrary(String name) {
        System.loadLibrary(name);
        return true;
    }
}
