"""The site: nbdev's processing of the notebooks, then Quarto where there is one.

nbdev's own commands are not used, because without Quarto they try to install it as root. Experiment notebooks are committed without
outputs; here each is replaced by what `make reproduce` made of it, with a line that says from where."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.processors import FilterDefaults
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from nbformat.v4 import new_markdown_cell

ROOT = Path(__file__).resolve().parent.parent


def executed(notebook, runs):
    "The first quick run of an experiment notebook, or None."
    found = sorted(Path(runs).glob(f'{notebook.parent.name}/quick-*/seed*/notebooks/{notebook.name}'))
    return found[0] if found else None


def commit():
    "Short name of the commit that the site is built from."
    git = subprocess.run(['git', 'describe', '--always', '--dirty'], cwd=ROOT, capture_output=True, text=True)
    return git.stdout.strip() or 'unknown'


def with_origin(notebook, run):
    "The notebook to show: the executed one where there is one, below its title a line about its origin."
    nb = nbformat.read(run or notebook, as_version=4)
    if run:
        seed, profile = run.parent.parent.name.removeprefix('seed'), run.parent.parent.parent.name
        line = f'*Executed with profile and data `{profile}`, seed {seed}, at commit `{commit()}`.*'
    else: line = f'*Shown without results; `locallearning reproduce {notebook.parent.name}` makes them.*'
    nb.cells.insert(1, new_markdown_cell(line, id='origin'))
    return nb


def stage(runs):
    "A copy of nbs whose experiments are executed."
    folder = ROOT/'build'/'nbs'
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT/'nbs', folder, ignore=shutil.ignore_patterns('.*'))
    missing = 0
    for notebook in sorted(folder.glob('experiments/*/[0-9]*.ipynb')):
        run = executed(notebook, runs)
        missing += run is None
        nbformat.write(with_origin(notebook, run), notebook)
    if missing: print(f'{missing} experiment notebooks have no quick run under {runs}: shown without results (`make reproduce` first)')
    return folder


def culprits(folder):
    "Notebooks that nbdev cannot process, with the reason: its parallel run does not say which one it was."
    os.environ['IN_TEST'] = '1'
    for notebook in sorted(folder.rglob('*.ipynb')):
        try: FilterDefaults()(read_nb(notebook))
        except Exception as error: yield f'{notebook.relative_to(folder)}: {type(error).__name__}: {error}'


def process():
    "nbdev's processing; the folder that Quarto renders."
    refresh_quarto_yml()
    folder = stage(os.environ.get('LOCALLEARNING_RUNS') or ROOT/'runs')
    try: return proc_nbs(str(folder), force=True)
    except Exception as error: sys.exit('\n'.join(culprits(folder)) or repr(error))


def main():
    os.chdir(ROOT)
    cache = process()
    if not shutil.which('quarto'):
        print(f'The notebooks are processed in {cache.name}/. There is no Quarto here, so the site stops at this point;\n'
              "`pip install -c constraints.txt -e '.[docs]'` fetches it where its release page can be reached.")
        return
    subprocess.run(['quarto', 'render', '--no-cache'], cwd=cache, check=True)
    site = ROOT/get_config().doc_path.name
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(cache/site.name, site)
    print(f'The site is in {site.name}/index.html')


if __name__ == '__main__': main()
