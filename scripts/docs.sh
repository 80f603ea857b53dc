#!/usr/bin/env bash
# Builds the documentation site into build/site/html: `pip install '.[docs]'` first, beside the extra cpu.
#
#   scripts/docs.sh                        every link and anchor is checked; a warning fails the build
#   CTWA_DOCS_PYTHON=PATH scripts/docs.sh  with another interpreter than that of .venv
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

python="${CTWA_DOCS_PYTHON:-$CTWA_VENV/bin/python}"
"$python" -c 'import furo, myst_parser, sphinx, sphinxcontrib.mermaid' 2>/dev/null ||
    fail "$python has no Sphinx: run $python -m pip install -c constraints/cpu.txt '.[docs]'"
rm -rf build/site
"$python" scripts/docs_pages.py build/site/source
"$python" -m sphinx -c docs/site -W --keep-going -q build/site/source build/site/html
say "The site is in build/site/html/index.html."
