"""The child process of `punchline convert`, which stops half way and waits. For tests of who clears up after whom."""

import signal
import sys
from pathlib import Path

from model_service.models import pickles


def stall(files: object, aside: Path) -> None:
    (aside / "model.safetensors").write_bytes(b"half")
    pickles.say(done_bytes=4, total_bytes=8)
    while True:
        signal.pause()


if __name__ == "__main__":
    pickles.write_all = stall
    pickles.main(Path(sys.argv[1]), Path(sys.argv[2]))
