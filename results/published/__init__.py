"""Numbers printed in papers, one per row, with their sources."""
