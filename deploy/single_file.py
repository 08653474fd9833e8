"""Puts wheels into one Python file, for `callbacks: ["s3://bucket/luthien.luthien"]` of a hosted LiteLLM.

    python deploy/single_file.py dist/luthien_litellm_hooks-*.whl >build/luthien.py

LiteLLM downloads that file and runs it. It unpacks its wheels into a new folder in the host's place for
temporary files, and takes the plugin from there. What the host lacks of the plugin's dependencies is packed with it, as
wheels for the host's Python and platform.
"""

import base64
import sys
from pathlib import Path

# Kept in plain ASCII: LiteLLM writes what it downloads in the encoding of the host's locale.
_FILE = '''"""{names}, for `callbacks: ["s3://bucket/luthien.luthien"]`."""

import base64
import io
import sys
import tempfile
import zipfile

WHEELS = (
{wheels})


def unpack() -> None:
    folder = tempfile.mkdtemp(prefix="luthien-")
    for wheel in WHEELS:
        zipfile.ZipFile(io.BytesIO(base64.b64decode(wheel))).extractall(folder)
    sys.path.insert(0, folder)


if "luthien_litellm_hooks" not in sys.modules:
    unpack()

from luthien_litellm_hooks import luthien  # noqa: E402
'''


def single_file(wheels: list[Path]) -> str:
    """The source of a module whose `luthien` is the callback."""
    packed = "".join(f'    "{base64.b64encode(wheel.read_bytes()).decode()}",\n' for wheel in wheels)
    return _FILE.format(names=", ".join(wheel.stem for wheel in wheels), wheels=packed)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit("usage: python deploy/single_file.py WHEEL... >luthien.py")
    sys.stdout.write(single_file([Path(name) for name in sys.argv[1:]]))
