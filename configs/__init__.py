"""YAML: every default of suites, methods and backbones. A field that a file does not name has the default of its dataclass."""
