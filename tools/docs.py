"""The site: what the notebooks show, nbdev's processing, then Quarto; without Quarto, plain pages by pandoc. Both are checked.

nbdev's own commands are not used: without Quarto they try to install it as root, and with it they show what Python says about the
definitions, not what the source does (`pages/symbols.py`)."""
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pypandoc
import yaml
from nbdev.quarto import refresh_quarto_yml
from pages.checks import check_site
from pages.plain import Page, render
from pages.process import process
from pages.stage import DOWNLOADS, stage

ROOT = Path(__file__).resolve().parent.parent


def settings():
    config = ConfigParser()
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return config['DEFAULT']


def processed():
    "The folder that Quarto or pandoc renders."
    refresh_quarto_yml()
    git, notebooks = settings(), ROOT/'build'/'nbs'
    colab = f"https://colab.research.google.com/github/{git['user']}/{git['repo']}/blob/{git['branch']}"
    runs = Path(os.environ.get('LOCALLEARNING_RUNS') or ROOT/'runs').resolve()
    missing = stage(runs, notebooks, colab)
    if missing: print(f'{missing} experiment notebooks have no quick run under {runs}: shown without results (`make reproduce` first)')
    failed = process(notebooks, ROOT/'_proc')
    if failed: sys.exit('\n'.join(failed))
    return ROOT/'_proc'


def by_quarto(source, site):
    "The site by Quarto; a warning is an error."
    done = subprocess.run(['quarto', 'render', '--no-cache'], cwd=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding='utf-8')
    print(done.stdout)
    shutil.rmtree(site, ignore_errors=True)
    if done.returncode: sys.exit(f'Quarto ended with {done.returncode}')
    shutil.move(source/site.name, site)
    shutil.copytree(source/DOWNLOADS, site/DOWNLOADS, dirs_exist_ok=True)
    return re.findall(r'^.*\b(?:WARN|WARNING|ERROR)\b.*$', re.sub(r'\x1b\[[\d;]*m', '', done.stdout), re.M)


def by_pandoc(source, site):
    "The site by pandoc alone."
    quarto = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))['website']
    navbar = [(entry['text'], entry['href']) for entry in quarto['navbar']['left']]
    return render(source, site, pypandoc.get_pandoc_path(), dict(footer=quarto['page-footer']['left'], navbar=navbar))


def main():
    os.chdir(ROOT)
    source, site = processed(), ROOT/settings()['doc_path']
    quarto = bool(shutil.which('quarto'))
    wrong = (by_quarto if quarto else by_pandoc)(source, site)
    notebooks = [p.relative_to(source) for p in sorted(source.rglob('*.ipynb')) if DOWNLOADS not in p.parts]
    pages = {ROOT/'nbs'/p: site/p.parent/Page(source/p).name for p in notebooks}
    wrong += check_site(site, pages, settings()['doc_host'])
    if wrong: sys.exit('\n'.join(wrong) + f'\n{len(wrong)} faults of the site')
    how = '' if quarto else ', made by pandoc alone: there is no Quarto here, which adds search, folding and the theme.\n' \
        "`pip install -c constraints.txt -e '.[docs]'` fetches it where its release page can be reached"
    print(f'The site is in {site.name}/index.html{how}')


if __name__ == '__main__': main()
