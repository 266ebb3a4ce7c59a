"""Tasks whose images are rendered here. Each public module registers its tasks; those with a leading underscore hold the generators."""
