"""Run a command that must leave the working tree as it found it: `python tools/unchanged.py COMMAND...`

The notebooks are the source and the modules are generated from them; whoever commits one without the other is told which files differ."""
import hashlib
import subprocess
import sys
from pathlib import Path


def tree():
    "Digest of every file that git tracks or would track."
    names = subprocess.run(['git', 'ls-files', '-coz', '--exclude-standard'], check=True, capture_output=True).stdout.decode().split('\0')
    return {n: hashlib.sha256(Path(n).read_bytes()).digest() for n in names if n and Path(n).is_file()}


def main(command):
    before = tree()
    code = subprocess.run(command).returncode
    if code: return code
    after = tree()
    changed = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    if not changed: return 0
    print(f'{Path(command[0]).name} changed the tree; commit what it wrote:', *changed, sep='\n  ', file=sys.stderr)
    return 1


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
