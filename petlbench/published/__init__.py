"""Numbers that papers print: what they say of themselves, whether their averages follow from their cells, how they compare with ours."""
