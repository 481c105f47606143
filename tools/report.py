"""The page "Reproduction report" from the small tables in reports/."""
import sys
from pathlib import Path

from locallearning.lab.report_page import write_page

ROOT = Path(__file__).resolve().parent.parent

if __name__ == '__main__':
    page = write_page(ROOT/'reports', ROOT/'nbs'/'reproduction.ipynb')
    print(f'{page.relative_to(ROOT)} written', file=sys.stderr)
