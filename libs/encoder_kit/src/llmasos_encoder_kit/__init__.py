"""What loaders share that compute encoders: configs, tensor names, pooling, and the folders of sentence-transformers."""
