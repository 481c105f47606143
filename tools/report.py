"""The pages of the reproduction report from the small tables in reports/: one for each family, and the front page before them.

Verdicts are made anew from the tables first, so that they are those of the claims as they stand."""
import sys
from pathlib import Path

from locallearning.lab.answers import write_front
from locallearning.lab.families import families
from locallearning.lab.report import write_report
from locallearning.lab.reproduction import judge_report

ROOT = Path(__file__).resolve().parent.parent

if __name__ == '__main__':
    reports, nbs = ROOT/'reports', ROOT/'nbs'
    for config in sorted(reports.glob('*/*/config.json')): judge_report(config.parent)
    pages = {name: nbs/'results'/f'{name}.ipynb' for name, family in families().items() if (family.folder/'report.ipynb').is_file()}
    for name, page in pages.items(): write_report(families()[name], reports, page)
    front = write_front(reports, nbs/'reproduction.ipynb', {name: f'results/{name}.ipynb' for name in pages})
    for page in [*pages.values(), front]: print(f'{page.relative_to(ROOT)} written', file=sys.stderr)
