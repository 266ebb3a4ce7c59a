"""Numbers printed in papers: validated data, their averages, and checks of printed averages against their cells."""
