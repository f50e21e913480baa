# SPDX-License-Identifier: MIT
"""COUNT processes that each read /proc/meminfo four times a second, in the obvious way."""

import os
import sys
import time


def watch(parent: int) -> None:
    """Read until the parent is gone."""
    print("ready", flush=True)
    while os.getppid() == parent:
        memory = {}
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                name, value = line.split(":")
                memory[name] = int(value.split()[0])
        if memory["MemAvailable"] < 0:
            print("low")
        time.sleep(0.25)


def main() -> None:
    """Start the others and wait for the end of stdin."""
    parent = os.getpid()
    for number in range(count := int(sys.argv[1])):
        if os.fork() == 0:
            time.sleep(0.25 / count * number)
            watch(parent)
            os._exit(0)
    sys.stdin.read()


if __name__ == "__main__":
    main()
