"""Bytes of a peer, a container or a damaged disk, and every parser that sees them.

Each target is one function from bytes to nothing: it returns, or raises what the parser's docstring says, whatever the
bytes are. `test/fuzz/run` lets atheris (libFuzzer) look for bytes with which it does anything else, and keeps those
that reach new code in corpus/; test_fuzz.py goes over these, and over what hypothesis makes.
"""
