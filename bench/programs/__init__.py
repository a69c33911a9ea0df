"""Programs of examples/ beside the same programs written for asyncio.

`python -m bench.programs` puts the same load on each, at a fixed pace, and tells what
CPU its process took.
"""
