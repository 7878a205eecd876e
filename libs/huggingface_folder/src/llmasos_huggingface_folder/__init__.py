"""A Hugging Face folder, the neutral form of checkpoints: read with every size and digest checked, and written whole or not at all.

Import from the modules: ``checkpoint`` reads a folder, ``writer`` writes one, ``quantization`` and ``forms`` say what a reader of quantised
weights is.
"""
