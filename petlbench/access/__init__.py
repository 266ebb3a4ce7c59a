"""The access ladder: what a method may touch of a model, enforced and counted. Stands on config."""
