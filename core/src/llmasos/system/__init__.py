"""The system layer: plugins, config, the model store and where models come from."""
