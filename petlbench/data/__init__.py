"""Tasks and their images: from a dataset's source to a store, to splits under a protocol, to batches on the training device."""
