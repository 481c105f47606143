"""What has to hold for every page of the site, whoever made it: Quarto, or pandoc alone."""
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {'script': 'src', 'img': 'src', 'iframe': 'src', 'source': 'src', 'video': 'src', 'audio': 'src', 'embed': 'src', 'object': 'data'}
FETCHED_RELS = {'stylesheet', 'icon', 'preload', 'modulepreload', 'prefetch', 'manifest', 'preconnect', 'dns-prefetch'}
VOID = {'area', 'base', 'br', 'col', 'embed', 'hr', 'img', 'input', 'link', 'meta', 'source', 'track', 'wbr'}


class Reader(HTMLParser):
    "What one page loads, links to, names and says."

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.ids, self.silent, self.words, self.code, self.inside = [], [], [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if 'id' in given: self.ids.append((given['id'], 'main' in self.inside))
        if tag == 'a' and given.get('href'): self.links.append(given['href'])
        if tag == 'img' and not (given.get('alt') or '').strip(): self.silent.append(given.get('src', ''))
        if tag in LOADED and given.get(LOADED[tag]): self.loads.append(given[LOADED[tag]])
        if tag == 'link' and FETCHED_RELS & set((given.get('rel') or '').split()): self.loads.append(given.get('href') or '')
        if given.get('srcset'): self.loads += [part.split()[0] for part in given['srcset'].split(',')]
        self.loads += css_loads(given.get('style') or '')
        if tag not in VOID: self.inside.append(tag)

    def handle_endtag(self, tag):
        while tag in self.inside and self.inside.pop() != tag: pass

    def handle_data(self, data):
        if 'style' in self.inside: self.loads += css_loads(data)
        elif 'script' in self.inside: return
        elif {'code', 'pre', 'math'} & set(self.inside): self.code.append(data)
        else: self.words.append(data)

    @property
    def text(self): return ' '.join(self.words)


def css_loads(text):
    "Addresses that a style sheet loads."
    text = re.sub(r'/\*.*?\*/', '', text, flags=re.S)
    return re.findall(r'url\(\s*["\']?([^"\')\s]+)', text) + re.findall(r'@import\s+["\']([^"\']+)', text)


def is_foreign(address): return bool(re.match(r'(\w+:)?//', address)) and not address.startswith('data:')


def letters(text): return re.sub(r'[^a-z]', '', text.lower())


def introduction(notebook):
    "The runs of plain words that a notebook says before its first section."
    cells = json.loads(Path(notebook).read_text(encoding='utf-8'))['cells']
    title = next(i for i, cell in enumerate(cells) if cell['cell_type'] == 'markdown')
    said = []
    for cell in cells[title + 1:]:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            said.append(re.split(r'^## ', source, maxsplit=1, flags=re.M)[0])
            if re.search(r'^## ', source, re.M): break
        elif said: break
    text = re.sub(r'```.*?```|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|!?\[[^\]]*\]\([^)]*\)|<[^>]*>', ';', '\n\n'.join(said), flags=re.S)
    return re.findall(r'[A-Za-z][A-Za-z ,\n]{20,}', text)


def check_page(path, site, pages, address):
    "What is wrong with one page."
    page, here = pages[path], path.relative_to(site)
    for load in page.loads:
        if is_foreign(load): yield f'{here} loads {load} from another host'
    for load in page.loads:
        if not is_foreign(load) and not load.startswith('data:') and not target(path, load).is_file(): yield f'{here} loads {load}, which is not there'
    for link in page.links:
        if link.startswith((address, '/')): yield f'{here} links to {link} instead of a relative address'
        if re.match(r'\w+:|//|/', link): continue
        to, anchor = target(path, link), unquote(urlsplit(link).fragment)
        if to.is_dir(): to = to/'index.html'
        if not to.is_file(): yield f'{here} links to {link}, which is not there'
        elif anchor and to in pages and anchor not in {name for name, _ in pages[to].ids}: yield f'{here} links to {link}, a place that is not on that page'
    # Only in the text: the style sheets of the two themes share a name.
    for name, times in Counter(name for name, in_text in page.ids if in_text).items():
        if times > 1: yield f'{here} has {times} places named {name}'
    for source in page.silent: yield f'{here} shows {source} without a text alternative'
    for found in re.findall(r'\S*–(?=[a-z])\S*', page.text): yield f'{here} says {found}: two dashes outside of code'
    for found in re.findall(r'Call self as a function|\bLNone\b', page.text): yield f'{here} says {found}'
    for found in re.findall(r'[^\s]*`[^\s]*\]\([^\s]*', ' '.join(page.code) + page.text): yield f'{here} shows raw Markdown: {found}'


def target(path, link):
    "The file that a relative address leads to."
    return (path.parent/unquote(urlsplit(link).path)).resolve() if urlsplit(link).path else path


def check_introductions(site, sources):
    "Introductions that did not arrive; `sources` maps notebooks to pages."
    for notebook, path in sources.items():
        said = introduction(notebook)
        if not said: yield f'{path.relative_to(site)} has no introduction'
        text = letters(Reader(path.read_text(encoding='utf-8')).text)
        lost = [run for run in said if letters(run) not in text]
        if lost: yield f'{path.relative_to(site)} lost a part of its introduction: {" ".join(lost[0].split())}'


def check_site(site, sources, address):
    "All that is wrong with the site in a folder, a line each."
    site = Path(site).resolve()
    files = [p for p in sorted(site.rglob('*.html')) if 'site_libs' not in p.parts]
    pages = {path: Reader(path.read_text(encoding='utf-8')) for path in files}
    wrong = [line for path in files for line in check_page(path, site, pages, address)]
    for path in sorted(site.rglob('*.css')):
        loads = css_loads(path.read_text(encoding='utf-8'))
        wrong += [f'{path.relative_to(site)} loads {load} from another host' for load in loads if is_foreign(load)]
    return wrong + [*check_introductions(site, sources)]
