"""Methods and their presets."""
