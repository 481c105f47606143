"""The site without Quarto: each processed notebook through pandoc into one HTML file with MathML, and the sidebar around it."""
import base64
import html
import json
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

TEMPLATE = Path(__file__).with_name('plain.html')
IMAGES = {'image/svg+xml': 'svg', 'image/png': 'png', 'image/jpeg': 'jpg'}


def options(source):
    "The `#|` options of a cell as a dictionary, and its code without them."
    given = re.findall(r'^#\|\s*(.*)$', source, re.M)
    return yaml.safe_load('\n'.join(given)) or {} if given else {}, re.sub(r'^#\|.*\n?', '', source, flags=re.M)


def fence(text, language=''):
    "A fenced block that is longer than any fence inside of it."
    ticks = '`'*max(3, *(len(run) + 1 for run in re.findall(r'`{3,}', text)), 3)
    return f'{ticks}{language}\n{text.rstrip()}\n{ticks}'


class Page:
    "Markdown, title and pictures of one processed notebook or Markdown file."

    def __init__(self, path):
        self.path, self.pictures = path, {}
        if path.suffix == '.md':
            text = path.read_text(encoding='utf-8')
            _, front, self.markdown = text.split('---\n', 2)
            self.front, self.name = yaml.safe_load(front), f'{path.stem}.html'
            return
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        self.front = yaml.safe_load(''.join(cells[0]['source']).strip().strip('-'))
        self.name = self.front['output-file']
        self.markdown = '\n\n'.join(filter(None, map(self.cell, cells[1:])))

    def cell(self, cell):
        source = ''.join(cell['source'])
        if cell['cell_type'] != 'code': return source.replace('{fig-alt=', '{alt=')
        given, code = options(source)
        if given.get('include') is False: return ''
        parts = [] if given.get('echo') is False or not code.strip() else [fence(code, 'python')]
        if parts and given.get('code-fold'):
            parts = [f'<details><summary>{given.get("code-summary", "Code")}</summary>\n\n{parts[0]}\n\n</details>']
        if given.get('output') is not False: parts += [self.output(o, given.get('fig-alt', '')) for o in cell['outputs']]
        return '\n\n'.join(filter(None, parts))

    def output(self, output, alt):
        data = output.get('data', {})
        if output['output_type'] == 'stream': return fence(''.join(output['text']), '{.output}')
        if 'text/markdown' in data: return ''.join(data['text/markdown'])
        image = next((mime for mime in IMAGES if mime in data), None)
        if image: return f'![]({self.picture(image, "".join(data[image]))}){{alt="{html.escape(alt)}"}}'
        return fence(''.join(data['text/plain']), '{.output}') if 'text/plain' in data else ''

    def picture(self, mime, text):
        name = f'{Path(self.name).stem}_files/{len(self.pictures)}.{IMAGES[mime]}'
        self.pictures[name] = text.encode() if mime == 'image/svg+xml' else base64.b64decode(text)
        return name


def flat(node, sections=()):
    "The pages of a sidebar in their order, each with the titles of the sections around it."
    for entry in node:
        if isinstance(entry, str): yield entry, sections
        elif 'contents' in entry: yield from flat(([entry['href']] if 'href' in entry else []) + entry['contents'],
                                                  (*sections, entry['section']))
        else: yield entry['href'], sections


def sidebar(node, page, titles, target):
    "The sidebar as nested lists; the sections around the page are open."
    items = []
    for entry in node:
        if isinstance(entry, dict) and 'section' in entry:
            inside = any(p == page for p, _ in flat([entry]))
            contents = ([entry['href']] if 'href' in entry else []) + entry['contents']
            items.append(f'<li><details{" open" if inside else ""}><summary>{html.escape(entry["section"])}</summary>'
                         f'{sidebar(contents, page, titles, target)}</details></li>')
        else:
            here = ' aria-current="page"' if entry == page else ''
            items.append(f'<li><a href="{target(entry)}"{here}>{html.escape(titles[entry])}</a></li>')
    return f'<ul>{"".join(items)}</ul>'


def render(source, target, pandoc, settings):
    "The whole site in `target`; what pandoc warned about, a line each."
    shutil.rmtree(target, ignore_errors=True)
    tree = yaml.safe_load((source/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    order = [page for page, _ in flat(tree)]
    pages = {page: Page(source/page) for page in order}
    titles = {page: p.front['title'] for page, p in pages.items()}
    place = {page: (Path(page).parent/p.name).as_posix() for page, p in pages.items()}
    relative = lambda page, other: os.path.relpath(other, Path(page).parent).replace(os.sep, '/')

    def links(page, text):
        "Links to notebooks lead to their pages; what is offered for download stays as it is."
        def one(found):
            other, anchor = found[2], found[3] or ''
            path = os.path.normpath(Path(page).parent/other).replace(os.sep, '/')
            return f'{found[1]}{relative(page, place[path]) if path in place else other}{anchor}"'
        return re.sub(r'(href=")(?!\w+:|#)([^"#]+\.(?:ipynb|md))(#[^"]*)?"', one, text)

    def one(page):
        p, out = pages[page], target/place[page]
        out.parent.mkdir(parents=True, exist_ok=True)
        for name, data in p.pictures.items():
            (out.parent/name).parent.mkdir(exist_ok=True)
            (out.parent/name).write_bytes(data)
        to = lambda other: relative(page, place[other])
        i = order.index(page)
        turn = [(name, order[j]) for name, j in (('previous', i - 1), ('next', i + 1)) if 0 <= j < len(order)]
        variables = dict(root=relative(page, '.') + '/', sidebar=sidebar(tree, page, titles, to), footer=settings['footer'],
                         turn=''.join(f'<a rel="{name[:4]}" href="{to(other)}">{name}: {html.escape(titles[other])}</a>' for name, other in turn),
                         navbar=''.join(f'<a href="{to(other)}">{text}</a>' for text, other in settings['navbar']))
        front = dict(title=p.front['title'], description=p.front.get('description', ''))
        command = [pandoc, '-f', 'markdown', '-t', 'html5', '--mathml', '--standalone', '--toc', '--toc-depth=3', '--columns=100000', '--wrap=preserve', f'--template={TEMPLATE}',
                   *(f'--variable={k}={v}' for k, v in variables.items())]
        done = subprocess.run(command, input=f'---\n{yaml.safe_dump(front)}---\n\n{p.markdown}', capture_output=True, encoding='utf-8')
        out.write_text(links(page, done.stdout), encoding='utf-8')
        return [f'{page}: {line}' for line in done.stderr.splitlines()]

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()) as pool:
        warned = [line for lines in pool.map(one, order) for line in lines]
    for extra in ('images', '_notebooks'): shutil.copytree(source/extra, target/extra)
    for extra in ('styles.css', 'plain.css'): shutil.copy((source if extra == 'styles.css' else TEMPLATE.parent)/extra, target)
    return warned
