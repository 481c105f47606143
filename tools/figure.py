"""The first picture of the README, from what `make reproduce` made, in so few colours that it is small."""
import os
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
FIGURE = 'hebbian/quick-mnist5k/seed0/figures/accuracy_under_pgd.png'
LIMIT = 150_000  # bytes


def main(runs, target=ROOT/'nbs'/'images'/'hebbian-quick.png'):
    source = Path(runs)/FIGURE
    if not source.is_file(): sys.exit(f'{source} is not there; `make reproduce` makes it')
    with Image.open(source) as picture:
        on_white = Image.new('RGBA', picture.size, 'white')
        on_white.alpha_composite(picture.convert('RGBA'))
    on_white.convert('RGB').quantize(64).save(target, optimize=True)
    if target.stat().st_size > LIMIT: sys.exit(f'{target} has {target.stat().st_size} bytes; at most {LIMIT} are wanted')
    print(f'{target} written', file=sys.stderr)


if __name__ == '__main__': main(os.environ.get('LOCALLEARNING_RUNS') or ROOT/'runs')
