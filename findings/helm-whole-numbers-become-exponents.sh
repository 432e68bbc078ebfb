#!/usr/bin/env bash
# Helm 3.20.2: a whole number of values.yaml from 1000000 on is printed with an exponent, the same number by --set is not.
#
# `window: 8388608` in a file of values is "8.388608e+06" in a template, also by `quote`; `--set window=8388608` gives
# "8388608". Values of files are parsed by way of JSON into float64, those of --set into int64. A chart that hands sizes in
# bytes on as text has to go by int64, and a test with --set alone does not show it.
#
# Needs Go, or a helm of that version on the PATH; exits non-zero when that changes.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
helm=$(command -v helm || true)
if [ "$("${helm:-false}" version --template '{{.Version}}' 2>/dev/null)" != v3.20.2 ]; then
  "$(dirname "$0")/../scripts/helm-build" >&2
  helm=/var/cache/ztun/helm/helm
fi
mkdir -p "$where/chart/templates"
printf 'apiVersion: v2\nname: chart\nversion: 0.1.0\n' >"$where/chart/Chart.yaml"
printf 'window: 8388608\n' >"$where/chart/values.yaml"
printf 'said: {{ .Values.window | quote }}\n' >"$where/chart/templates/said.yaml"
by_file=$("$helm" template x "$where/chart" | sed -n 's/^said: //p')
by_set=$("$helm" template x "$where/chart" --set window=8388608 | sed -n 's/^said: //p')
echo "by file: $by_file, by --set: $by_set"
[ "$by_file" = '"8.388608e+06"' ] && [ "$by_set" = '"8388608"' ]
