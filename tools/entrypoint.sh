#!/bin/sh
# What the container runs: Jupyter, a command of locallearning, or any other program. JUPYTER_TOKEN fixes the token, else one is drawn.
set -e
case "$1" in
    notebook) exec jupyter lab --ip=0.0.0.0 --port=3108 --no-browser nbs ;;
    reproduce|list) exec locallearning "$@" ;;
    *) exec "$@" ;;
esac
