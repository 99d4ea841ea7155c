"""What packs files for tests. Python has zstd from 3.14 on; before that a package has the same functions."""

import gzip
import lzma
import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# By the suffix behind a file's name.
COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd.compress}
OPEN = {".gz": gzip.open, ".xz": lzma.open, ".zst": zstd.open}
