"""From defaults, YAML and what a user sets to one strict, typed run configuration, and the id that it has."""
