"""Make `mini_clip`: procedural image-caption pairs and the contrastive training on them. Nothing here runs at inference."""
