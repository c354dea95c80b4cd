"""Measurements: of merges, UNets and pipelines on this computer, and of components on phones."""
