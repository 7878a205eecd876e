"""What serving over HTTP costs, and how it compares with llama.cpp's server."""
