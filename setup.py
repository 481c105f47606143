"""Packaging: every fact comes from settings.ini, the file that nbdev reads as well."""
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
words = lambda key: cfg.get(key, '').split()
text = lambda name: (here/name).read_text(encoding='utf-8')

# The experiment notebooks and their family.toml travel in the wheel as subpackages without Python code.
families = sorted(f.parent.name for f in here.glob('nbs/experiments/*/family.toml'))

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    long_description=text('README.md'), long_description_content_type='text/markdown',
    license='MIT', license_files=['LICENSE', 'NOTICE'], author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'],
    packages=find_packages(include=['locallearning', 'locallearning.*']) + [f'locallearning.experiments.{f}' for f in families],
    package_dir={f'locallearning.experiments.{f}': f'nbs/experiments/{f}' for f in families},
    package_data={'locallearning': ['assets/*', '*.mplstyle'], **{f'locallearning.experiments.{f}': ['*.ipynb', '*.toml'] for f in families}},
    python_requires=f">={cfg['min_python']}", install_requires=words('requirements'),
    extras_require={x: words(f'{x}_requirements') for x in ('dev', 'peers', 'docs', 'distributed', 'lsun')},
    entry_points={'console_scripts': words('console_scripts'), 'nbdev': ['locallearning=locallearning._modidx:d']},
    zip_safe=False,
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research', 'Programming Language :: Python :: 3',
                 'Topic :: Scientific/Engineering :: Artificial Intelligence'],
)
