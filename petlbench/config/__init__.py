"""Build one strict, typed run configuration, with its id, from defaults, YAML and what a user sets."""
