"""How `mini_clip` was made: procedural image-caption pairs and the contrastive training on them. Nothing here runs at inference."""
