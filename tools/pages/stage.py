"""The notebooks as the site shows them: experiments executed, tables as Markdown, a way to download each."""
import ast
import json
import os
import re
import shutil
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell

from .symbols import ROOT
from .tables import markdown_table

MACHINERY = ('examine', 'lab', 'bench', 'command')  # shelves that only those look into who change the package
DOWNLOADS = '_notebooks'                            # beside the pages; Quarto leaves folders with a dash alone


def executed(notebook, runs):
    "The first quick run of an experiment notebook, or None."
    found = sorted(Path(runs).glob(f'{notebook.parent.name}/quick-*/seed*/notebooks/{notebook.name}'))
    return found[0] if found else None


def origin(notebook, run):
    "A sentence about where the results come from, as the manifest of the run has it."
    if run is None: return f'*Shown without results; `locallearning reproduce {notebook.parent.name}` makes them.*'
    manifest = json.loads((run.parent.parent/f'manifest-{notebook.stem}.json').read_text(encoding='utf-8'))
    values, commit = manifest['parameters'], manifest['commit']
    at = f'at commit `{commit[:10]}`' + (' with changes' if manifest['dirty'] else '') if commit else 'outside of a repository'
    return f"*Executed with profile `{values['profile']}`, data `{values['data']}`, seed {values['seed']}, {at}.*"


def with_values(defaults, injected):
    "The cell of parameters with the values of a run and the comments of the original; what names a folder of the machine stays as it was."
    values = {n.targets[0].id: ast.unparse(n.value) for n in ast.parse(injected).body if isinstance(n, ast.Assign)}
    out = []
    for line in defaults.splitlines():
        found = re.match(r'(\w+)(: *\w+)? = .*?(?=  #|$)', line)
        value = values.get(found[1]) if found else None
        local = value is not None and os.path.isabs(str(ast.literal_eval(value)))
        out.append(line if value is None or local else f'{found[1]}{found[2] or ""} = {value}{line[found.end():]}')
    return '\n'.join(out)


def fold_parameters(nb):
    "One folded cell of parameters: the defaults, or what the run was given."
    tagged = lambda tag: next((c for c in nb.cells if tag in c.metadata.get('tags', [])), None)
    defaults, injected = tagged('parameters'), tagged('injected-parameters')
    if injected: nb.cells.remove(injected)
    source = with_values(defaults.source, injected.source) if injected else defaults.source
    defaults.source = f'#| code-fold: true\n#| code-summary: Parameters\n{source}'


def without_html(nb):
    "Tables as Markdown in place of HTML."
    for cell in nb.cells:
        for output in cell.get('outputs', []):
            html = output.get('data', {}).pop('text/html', None)
            if html and 'text/markdown' not in output.data: output.data['text/markdown'] = markdown_table(html)


def without_folders(nb, runs):
    "Folders of the building machine, as a reader would have them."
    shown = json.dumps(nb.cells).replace(json.dumps(str(runs))[1:-1], 'runs').replace(json.dumps(str(ROOT))[1:-1] + os.sep, '')
    nb.cells = [nbformat.from_dict(cell) for cell in json.loads(shown)]


def without_captions(nb):
    "Pictures that stand alone keep their text alternative, but do not repeat it below."
    alone = re.compile(r'^!\[([^\]\n]+)\]\(([^)\s]+)\)$', re.M)
    quoted = lambda found: '![](%s){fig-alt="%s"}' % (found[2], found[1].replace('"', "'"))
    for cell in nb.cells:
        if cell.cell_type == 'markdown': cell.source = alone.sub(quoted, cell.source)


def ways_in(page, address):
    "Links to download a notebook and to open it; `address` is that of the repository at a host of notebooks."
    up = '../'*(len(page.parts) - 1)
    return f'[Download this notebook]({up}{DOWNLOADS}/{page.as_posix()}){{.download download="{page.name}"}} · ' \
           f'[open it in Colab]({address}/nbs/{page.as_posix()})'


def stage(runs, folder, colab):
    "A copy of nbs in `folder`, made ready to be processed; how many experiments have no results under `runs`."
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT/'nbs', folder, ignore=shutil.ignore_patterns('.*'))
    missing = 0
    for path in sorted(folder.rglob('*.ipynb')):
        page = path.relative_to(folder)
        if path.name == 'report.ipynb':
            path.unlink()
            continue
        experiment = page.match('experiments/*/[0-9]*.ipynb')
        run = executed(path, runs) if experiment else None
        nb = nbformat.read(run or path, as_version=4)
        nb.metadata.pop('papermill', None)
        about = ways_in(page, colab)
        if experiment:
            missing += run is None
            fold_parameters(nb)
            about = f'{origin(path, run)}\n\n{about}'
        without_html(nb)
        without_captions(nb)
        without_folders(nb, runs)
        download = folder/DOWNLOADS/page
        download.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/'nbs'/page, download)
        title = next(i for i, cell in enumerate(nb.cells) if cell.cell_type == 'markdown')
        if page.parts[0] in MACHINERY: nb.cells[title].source += '\n\n- search: false'
        nb.cells.insert(title + 1, new_markdown_cell(f'::: {{.about}}\n{about}\n:::', id='about'))
        nbformat.write(nb, path)
    return missing
