"""Stands for a training run: counts to N, keeps its place when it is asked to stop, goes on from there.

    python -m tests.scripts.grid_worker FOLDER N [broken]

`broken` fails until FOLDER holds a file `mended`.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(folder: Path, steps: int, broken: bool) -> int:
    asked = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: asked.append(received))
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "place"
    done = int(place.read_text()) if place.exists() else 0
    with (folder / "sessions").open("a") as file:
        file.write(json.dumps({"from": done, "threads": os.environ["OMP_NUM_THREADS"], "at": time.monotonic()}) + "\n")
    if broken and not (folder / "mended").exists():
        print("first line\nno such puzzle")
        return 7
    while done < steps and not asked:
        time.sleep(0.02)
        done += 1
        place.write_text(str(done))
    with (folder / "ends").open("a") as file:
        file.write(f"{time.monotonic()}\n")
    if done == steps:
        (folder / "summary.json").write_text("{}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), "broken" in sys.argv[3:]))
