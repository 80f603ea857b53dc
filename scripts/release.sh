#!/usr/bin/env bash
# Makes a release: checks that everything says the same version, builds wheel and sdist, tries the wheel without a clone,
# writes the list of what is in it (SBOM), and says what to upload. Dry by default: nothing is tagged, nothing uploaded.
#
#   scripts/release.sh          everything but the tag; what was built is in dist/
#   scripts/release.sh --tag    and the tag vVERSION, on a clean tree
#
# Before: set `version` in pyproject.toml and CITATION.cff, and give the changes in CHANGELOG.md the heading
# `## [VERSION] - YYYY-MM-DD`. Tools go into an environment of their own, which is removed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

case "${1:-}" in
    "" | --tag) ;;
    *)
        fail "unknown option $1: write --tag, or nothing"
        exit 2
        ;;
esac
version="$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)"
say "Version $version."
problems=()
grep -q "^version: \"\?$version\"\?$" CITATION.cff || problems+=("CITATION.cff has another version")
grep -q "^## \[$version\] - [0-9-]\{10\}$" CHANGELOG.md || problems+=("CHANGELOG.md has no heading '## [$version] - YYYY-MM-DD'")
grep -q "ctwa:$version" docker/Dockerfile || problems+=("docker/Dockerfile names another image tag")
"$CTWA_VENV/bin/python" scripts/compatibility.py --check || problems+=("docs/compatibility.md is out of date")
git diff --quiet HEAD -- || problems+=("there are changes that are not committed")
git rev-parse --quiet --verify "refs/tags/v$version" >/dev/null && problems+=("the tag v$version is there already")
for each in "${problems[@]}"; do
    say "Not ready: $each."
done
if [[ "${1:-}" == --tag && ${#problems[@]} -gt 0 ]]; then
    exit 1
fi

tools="$(mktemp -d)"
trap 'rm -rf "$tools"' EXIT
"$CTWA_VENV/bin/python" -m venv "$tools"
say "Installing the tools: build, twine, cyclonedx-bom."
"$tools/bin/python" -m pip install --quiet --disable-pip-version-check "build>=1.2,<2" "twine>=6,<8" "cyclonedx-bom>=7,<8"

rm -rf dist
say "Building."
"$tools/bin/python" -m build --outdir dist . >"$tools/build.log" 2>&1 || {
    tail -n 30 "$tools/build.log" >&2
    fail "the build failed"
}
"$tools/bin/python" -m twine check --strict dist/*
say "Writing the lists of what each installation consists of (CycloneDX)."
for which in cpu gpu; do
    "$tools/bin/cyclonedx-py" requirements --pyproject pyproject.toml --output-reproducible \
        --output-file "dist/ctwa-$version-$which.cdx.json" "constraints/$which.txt"
done
say "Trying the wheel without a clone."
scripts/check_wheel.sh "dist/ctwa-$version-py3-none-any.whl"
say "Checksums."
(cd dist && sha256sum -- * | tee SHA256SUMS)

if [[ "${1:-}" == --tag ]]; then
    git tag --annotate "v$version" --message "ctwa $version"
    say "Tagged v$version. Then: git push origin v$version; twine upload dist/*.whl dist/*.tar.gz;"
    say "docker build -f docker/Dockerfile -t ctwa:$version ."
elif [[ ${#problems[@]} -gt 0 ]]; then
    say "Dry: nothing was tagged, and with --tag the release would be refused for what is not ready above."
else
    say "Dry: nothing was tagged. scripts/release.sh --tag does."
fi
