"""Run the command as a user does, on the toy family."""
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from locallearning.command import app as cli

TOY = Path(__file__).parent/'toy'


def environment(**more):
    keep = {k: v for k, v in os.environ.items() if not k.startswith(('LOCALLEARNING_', 'TOY_', 'JUPYTER_'))}
    return keep | dict(OMP_NUM_THREADS='1', LOCALLEARNING_EXPERIMENTS=str(TOY), PYTHONPATH=str(TOY)) | more


def start(*args, cwd=None, **env):
    "A running command in a process group of its own."
    return subprocess.Popen([sys.executable, '-m', 'locallearning.command.app', *map(str, args)], cwd=cwd, env=environment(**env), text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def finish(process, seconds=240):
    "Exit code, standard output and standard error."
    try: out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired: os.killpg(process.pid, signal.SIGKILL); raise
    return process.returncode, without_times(out), err


def without_times(out):
    "What was printed, but for the lines that say how long something took: only slow machines print them."
    return re.sub(r'^[^:\n]+: \d+ in \d+ s\n', '', out, flags=re.M)


def widest(out):
    "Length of the longest line that names no place, as those are as long as the machine's folders are."
    return max(len(line) for line in out.splitlines() if not re.search(r'(^|\s)/', line))


def wait_for(condition, what, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f'{what} did not happen within {seconds} s'
        time.sleep(.05)
    return found


def alive(pid): return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def tree(process): return [p.pid for p in psutil.Process(process.pid).children(recursive=True)]


@contextmanager
def in_process(monkeypatch, capsys, *first):
    "The command as a function of its words, in this process: exit code, output, errors."
    monkeypatch.setattr(sys, 'path', [*sys.path])
    before = signal.getsignal(signal.SIGTERM)
    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['locallearning', *first, *map(str, args)])
        with pytest.raises(SystemExit) as e: cli.main()
        out, err = capsys.readouterr()
        return e.value.code, without_times(out), err
    try: yield run
    finally: signal.signal(signal.SIGTERM, before)
