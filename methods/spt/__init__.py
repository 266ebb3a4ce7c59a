"""SPT: sensitivity-aware parameter-efficient fine-tuning (He et al. 2023, arXiv 2303.08566)."""
