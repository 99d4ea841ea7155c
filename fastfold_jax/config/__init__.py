"""Typed configuration: what a model is (`model`), how it runs (`execution`), and the released presets."""
