"""Reads weight files in a process of its own, whose memory and time are limited for each file."""

import contextlib
import json
import pathlib
import resource
import subprocess
import sys
import time

STATM = pathlib.Path("/proc/self/statm")


def _mebibytes():
    return int(STATM.read_text().split()[0]) * resource.getpagesize() >> 20


@contextlib.contextmanager
def limits(*, seconds, mebibytes):
    """Kills the process after seconds of work; more memory than mebibytes is an error."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = int(used.ru_utime + used.ru_stime) + seconds + 1
    size = (_mebibytes() + mebibytes) << 20
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def main():
    """Answers every line of stdin, a path and limits, with a line: how reading it went."""
    from rtda_jax.errors import ConfigError
    from rtda_jax.weights import read_weights

    for line in sys.stdin:
        task = json.loads(line)
        begin = time.process_time()
        try:
            with limits(seconds=task["seconds"], mebibytes=task["mebibytes"]):
                names = sorted(read_weights(task["path"]).arrays)
            answer = f"holds {len(names)} arrays"
        except ConfigError as error:
            answer = str(error)
        took = time.process_time() - begin
        print(json.dumps({"answer": answer, "seconds": took}), flush=True)


class Reader:
    """The process, which is started again after a file that killed it."""

    def __init__(self):
        self.process = None

    def read(self, path, *, seconds=2, mebibytes=300):
        """Returns the error of a file or what it holds, after that much time at most."""
        if self.process is None or self.process.poll() is not None:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                [sys.executable, __file__], stdin=pipe, stdout=pipe, text=True
            )
        task = {"path": str(path), "seconds": seconds, "mebibytes": mebibytes}
        print(json.dumps(task), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, f"{path.name} killed its reader"
        outcome = json.loads(line)
        assert outcome["seconds"] <= seconds, f"{path.name} took {outcome['seconds']:.1f} s"
        return outcome["answer"]

    def close(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()


if __name__ == "__main__":
    main()
