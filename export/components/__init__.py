"""The components of a pipeline as modules that converters take, each with its graph: what is exported.

`hypernet`, `unet`, `text_encoders` and `vae` know no target; `export.targets` says how each becomes an artifact.
"""
