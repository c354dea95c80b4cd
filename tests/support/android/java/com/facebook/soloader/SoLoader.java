package com.facebook.soloader;

/** Stands in for the loader that fbjni's classes ask for their library, by its name of 2019. */
public final class SoLoader {
    public static boolean loadLibrary(String name) {
        System.loadLibrary(name.equals("fb") ? "fbjni" : name);
        return true;
    }
}
