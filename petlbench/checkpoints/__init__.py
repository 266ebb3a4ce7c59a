"""Checkpoints: read and write them, evaluate them on a fresh backbone, export them as weights or as pixels."""
