"""The border to other libraries: Hugging Face folders in and out, flax.linen modules in and out.

Import the leaf module you need (`erel_jax.interop.huggingface`, `.flax`, `.export`); this package loads none of them.
"""
