"""Data sets and input pipelines; the one room that knows TFDS, Grain and Pillow.

Import the modules themselves: `data.retrieval` (pictures with texts), `data.sequences` and `data.items` (users'
behavior), `data.pipeline` (batches). Nothing is imported here, so each brings only what it needs.
"""
