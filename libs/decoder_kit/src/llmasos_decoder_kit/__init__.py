"""What loaders that compute decoders themselves share: kept builds, slots, the order of rotated channels, and weights read by parts.

Import from the modules ``artifact``, ``slots``, ``channels`` and ``weights``; importing one imports no framework.
"""
