"""README.md from nbs/index.ipynb by nbconvert, so that it is the same with and without Quarto."""
import re
import sys
from configparser import ConfigParser
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent


def prepare(nb):
    "Shown cells only, without directives and outputs; neighbouring code cells become one."
    cells, nb.metadata.language_info = [], {'name': 'python'}
    for cell in nb.cells:
        if re.search(r'^#\|\s*(hide|default_exp)', cell.source, re.M): continue
        if cell.cell_type == 'code':
            cell.source, cell.outputs = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip(), []
            if cells and cells[-1].cell_type == 'code':
                cells[-1].source += '\n\n' + cell.source
                continue
        cells.append(cell)
    nb.cells = cells
    return nb


def blob():
    "Address at which the repository shows its files."
    config = ConfigParser()
    config.read(ROOT/'settings.ini')
    return '{git_url}/blob/{branch}/'.format_map(config['DEFAULT'])


def from_root(text, folder='nbs'):
    "Links that are relative to the notebook, or lead to a file of the repository, made relative to the root; code left alone."
    parts = re.split(r'(^```.*?^```)', text, flags=re.M | re.S)
    link = lambda part: re.sub(r'\]\((?!\w+:|#|/)([^)\s]+)\)', rf']({folder}/\1)', part).replace(f']({blob()}', '](')
    return ''.join(part if part.startswith('```') else link(part) for part in parts)


def readme(path=ROOT/'nbs'/'index.ipynb'):
    "Text of README.md for the notebook at `path`."
    text, _ = MarkdownExporter().from_notebook_node(prepare(nbformat.read(path, as_version=4)))
    return '<!-- Made from nbs/index.ipynb by `make readme`. -->\n\n' + re.sub(r'\n{3,}', '\n\n', from_root(text)).strip() + '\n'


if __name__ == '__main__':
    (ROOT/'README.md').write_text(readme(), encoding='utf-8')
    print('README.md written', file=sys.stderr)
