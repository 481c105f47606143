"""Two pages that are made from the code: the table of public names, and the help of every command."""
import os
import subprocess
import sys

import nbformat
from pages.symbols import ROOT, public_names, public_places, sentence_of

NBS = ROOT/'nbs'
START = "import sys; from locallearning.command.app import main; sys.argv[0] = 'locallearning'; main()"
COMMANDS = ('reproduce', 'list', 'train', 'evaluate', 'probe', 'bench')
SHELVES = {'': 'The core', 'attacks': 'Attacks', 'robustness': 'Robustness', 'probes': 'Probes', 'hebbian': 'Local Hebbian learning', 'rkhs': 'RKHS norms', 'lipschitz': 'Lipschitz networks',
           'figures': 'Figures', 'examine': 'Examining models', 'lab': 'Experiments and reports', 'bench': 'Benchmark'}


def page(title, description, text): return f'---\ntitle: {title}\ndescription: "{description}"\n---\n\n{text.strip()}\n'


def title(path):
    "The title of a notebook, which stands in its first cell of text."
    first = next(c for c in nbformat.read(NBS/path, as_version=4).cells if c.cell_type == 'markdown')
    return first.source.splitlines()[0].removeprefix('# ')


def escaped(text): return text.replace('|', '\\|')


def reference():
    "The table of public names by shelf, each with its page and the first sentence of its documentation."
    shelves = {}
    for name, module in public_names().items():
        path, symbol = public_places()[name]
        row = f'| [`ll.{name}`]({path.as_posix()}#{symbol.anchor}) | [{title(path)}]({path.as_posix()}) | {escaped(sentence_of(symbol.doc))} |'
        shelves.setdefault(module.rpartition('.')[0], []).append((name.lower(), row))
    intro = 'With `import locallearning as ll`, every name below is `ll.name`; each leads to the lesson that defines it. Recipes (`--model "SHLP(width=500)"`) ' \
        'look their names up in the same table. For the command line see [the commands](commands.md).\n\n' \
        'Where to begin: [models](08_models.ipynb), [training](11_training.ipynb), [penalties](12_regularizers.ipynb), ' \
        '[attacks](attacks/02_gradient.ipynb), [accuracy and critical norms](robustness/01_curves.ipynb), [spectra](probes/00_spectra.ipynb).'
    tables = [f'## {SHELVES[shelf]}\n\n| name | page | what it is for |\n|---|---|---|\n' + '\n'.join(row for _, row in sorted(rows))
              for shelf, rows in sorted(shelves.items(), key=lambda item: [*SHELVES].index(item[0]))]
    return page('Reference', 'Every public name, where it is explained, and what it is for.', '\n\n'.join([intro, *tables]))


def help_of(*command):
    "What the command prints with --help, 80 columns wide."
    env = os.environ | dict(COLUMNS='80', TERMINAL_WIDTH='80', NO_COLOR='1', PYTHONIOENCODING='utf-8')
    done = subprocess.run([sys.executable, '-c', START, *command, '--help'], env=env, cwd=ROOT, check=True,
                          stdout=subprocess.PIPE, encoding='utf-8')
    return '\n'.join(line.rstrip() for line in done.stdout.strip().splitlines())


def commands():
    "The help of the command and of each of its parts."
    intro = 'Installed, the package brings one command, `locallearning`; in a checkout it is `.venv/bin/locallearning`. What follows is what it prints itself. ' \
        'Arguments named RECIPE are pieces of the library as one would write them in Python, such as `"Jacobian(1e-3, n=3)"` ([recipes](01_recipes.ipynb)).'
    parts = [f'```text\n{help_of()}\n```']
    for name in COMMANDS: parts.append(f'## `locallearning {name}`\n\n```text\n{help_of(name)}\n```')
    outro = 'What the results look like and where they lie: [a model of your own](howto/own_model.ipynb), [going on after an interruption](howto/resume.ipynb). ' \
        'What the scripts of the original papers became: [from the originals](originals.md).'
    return page('Commands', 'What the command line can do: the help of every command.', '\n\n'.join([intro, *parts, outro]))


PAGES = {NBS/'reference.md': reference, NBS/'commands.md': commands}

if __name__ == '__main__':
    for path, make in PAGES.items():
        path.write_text(make(), encoding='utf-8')
        print(f'{path.relative_to(ROOT)} written', file=sys.stderr)
