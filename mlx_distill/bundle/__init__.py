"""Everything that a laptop without a network needs of a Run, in one file whose every byte is accounted for.

    write(file, parts, facts)     the same parts make the same bytes, on every machine
    verify(file)                  the manifest, and each damaged, missing or additional part
    opened(file, cache)           the folder that it holds, unpacked into the cache once

It knows files, names and hashes; which files of a Run go into a bundle is known by `workflows.bundling`.
"""

from mlx_distill.bundle.manifest import Manifest as Manifest
from mlx_distill.bundle.opening import opened as opened
from mlx_distill.bundle.opening import verify as verify
from mlx_distill.bundle.reading import Fault as Fault
from mlx_distill.bundle.writing import write as write
