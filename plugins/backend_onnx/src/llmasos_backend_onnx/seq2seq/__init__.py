"""Encoder-decoders that optimum exported to three graphs: the encoder, the decoder's first tokens, and those after them."""
