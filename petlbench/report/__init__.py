"""Tables, pictures and the page that people read, from what ``analysis`` computes."""
