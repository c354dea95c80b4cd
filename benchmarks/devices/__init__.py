"""The kinds of devices that a benchmark can run on. No toolchain is imported here."""
