"""Plugins that misbehave, one way for each variant, and the model that does not."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from mousebench import Spec, hookimpl


class Hostile:
    layers = ("only",)

    def __init__(self, way: str) -> None:
        self.way = way
        self.fingerprint = {"way": way, "environment": json.dumps(dict(os.environ))}

    def activations(self, images, layers):
        features = images[..., 0].reshape(len(images), -1) / 255
        wrong = getattr(self, self.way.replace("-", "_"))()
        return {"only": features if wrong is None else wrong}

    def good(self):
        pass

    def hang(self):
        time.sleep(600)

    def sys_exit(self):
        sys.exit("bye")

    def os_exit(self):
        os._exit(0)

    def segfault(self):
        ctypes.string_at(0)

    def memory(self):
        held = []
        while True:
            held.append(np.ones(5_000_000))

    def stdout(self):
        os.write(1, b'{"format": 1, "results": []}\n')

    def flood(self):
        for _ in range(1_000):
            sys.stdout.write("a line that nobody needs to read\n" * 1_000)

    def disk(self):
        for number in range(100):
            Path(f"junk{number}").write_bytes(bytes(5_000_000))
        time.sleep(600)

    def forks(self):
        for _ in range(200):
            if os.fork() == 0:
                time.sleep(600)
                os._exit(0)
        time.sleep(600)

    def daemon(self):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.write(2, f"daemon {os.getpid()}\n".encode())
                time.sleep(600)
            os._exit(0)
        os.wait()
        time.sleep(0.1)

    def deletes_home(self):
        for folder in (Path.home(), Path(os.environ["MOUSEBENCH_HOME"]), Path.cwd()):
            shutil.rmtree(folder, ignore_errors=True)
        if Path.home().exists():
            raise OSError("it is still there")

    def objects(self):
        return np.array([[object()]] * 24)

    def relative(self):
        for depth in range(1, 8):
            target = Path(*[".."] * depth, "results", "stolen.nc")
            if target.parent.is_dir():
                target.write_bytes(b"mine")

    def absolute(self):
        Path(json.loads(Path(__file__).with_name("target.json").read_text()), "stolen.nc").write_bytes(b"mine")

    def spies(self):
        pid = os.getpid()
        for _ in range(2):  # the warden, and who started it
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        raise ValueError(Path(f"/proc/{pid}/environ").read_bytes().replace(b"\0", b" ").decode())

    def kills(self):
        os.kill(os.getppid(), 9)
        time.sleep(600)


@hookimpl
def mousebench_models():
    yield Spec("hostile", load=load, description="a model\x1b[31m\nin <script>two</script> lines")


def load(variant: str):
    return Hostile(variant)
