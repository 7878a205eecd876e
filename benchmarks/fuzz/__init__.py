"""Coverage-guided fuzzing of everything that reads files of strangers; ``python -m benchmarks.fuzz --help``.

``targets``: one for each kind of file, a plain function of bytes. ``mutation``: changes that keep lengths and checksums right, so that
they reach what lies behind the header. ``containment``: what a case may not do. ``child``: one target in a process of its own, guided by
atheris, or without it. ``runner``: starts children, one after the other, and keeps what they find.
"""
