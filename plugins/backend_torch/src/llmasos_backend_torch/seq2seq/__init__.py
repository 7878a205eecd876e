"""Encoder-decoders: T5, BART and their relatives, over slots whose sequences attend to a source."""
