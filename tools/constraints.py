"""Write the installed set to constraints.txt, without what differs between platforms."""
import re
import subprocess
import sys
from pathlib import Path

freeze = subprocess.run([sys.executable, '-m', 'pip', 'freeze', '--all', '--exclude-editable'], check=True, capture_output=True, text=True).stdout
pins = [re.sub(r'\+.*', '', line) for line in freeze.splitlines() if not re.match(r'(nvidia|cuda|triton|pip\b)', line, re.I)]
# What is pinned in settings.ini itself is not always installed: Quarto's package downloads a binary from another host.
pins += {pin for pin in re.findall(r'[\w.-]+==[\w.]+', Path('settings.ini').read_text())} - {*pins}
path = Path('constraints.txt')
head = [line for line in path.read_text().splitlines() if line.startswith('#')]
path.write_text('\n'.join(head + sorted(pins, key=str.lower)) + '\n')
