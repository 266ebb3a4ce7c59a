"""Task plugins, one module per family or suite; modules with a leading underscore hold the image generators and register nothing."""
