"""Scripts of maintainers: how the embedded model was made, the lowest constraints, the hook of the documentation site. Not installed."""
