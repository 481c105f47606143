"""Says in words what is missing before the installation would fail in a less readable way."""
import sys
from configparser import ConfigParser

config = ConfigParser()
config.read('settings.ini')
need = config['DEFAULT']['min_python']
if sys.version_info < tuple(int(n) for n in need.split('.')):
    sys.exit('%s is Python %s, but this project needs Python %s or newer.\nName another one: make PYTHON=python%s ...'
             % (sys.executable, sys.version.split()[0], need, need))
try: import ensurepip, venv  # noqa: F401
except ImportError:
    sys.exit('%s has no venv module. On Debian and Ubuntu: apt install python3-venv' % sys.executable)
