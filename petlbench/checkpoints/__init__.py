"""What a run learned: its file, its evaluation on a fresh backbone, its export as weights or as pixels."""
