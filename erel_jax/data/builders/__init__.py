"""TFDS builders of the retrieval data sets; import the module of a builder, which imports TFDS."""
