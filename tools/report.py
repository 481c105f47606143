"""The page "Reproduction report" from the small tables in reports/, by the notebook of the family that it is about."""
import sys
from pathlib import Path

from locallearning.lab.families import find_family
from locallearning.lab.report import write_report

ROOT = Path(__file__).resolve().parent.parent

if __name__ == '__main__':
    family, _ = find_family('hebbian')
    page = write_report(family, ROOT/'reports', ROOT/'nbs'/'reproduction.ipynb')
    print(f'{page.relative_to(ROOT)} written', file=sys.stderr)
