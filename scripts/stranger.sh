#!/usr/bin/env bash
# What a stranger does: the wheel in a fresh environment and an empty folder, three facts, edit, ask, evaluate, serve.
# Usage: scripts/stranger.sh   (needs Python 3.11 or newer and the package index; the weights go to ONCEEDIT_HOME)
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$(command -v python3.11 || command -v python3)}
folder=$(mktemp -d)
server=
finish() { # end the server that was started, and remove the folder
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$folder"
}
trap finish EXIT

say() { echo "--- $SECONDS s: $*"; }
expect() { # expect TEXT COMMAND...: run it; its output must contain TEXT
    local text=$1 output
    shift
    output=$("$@" 2>&1) || { echo "$output"; echo "FAILED: $*"; exit 1; }
    grep -qF -- "$text" <<<"$output" || { echo "$output"; echo "NOT SAID by '$*': $text"; exit 1; }
    echo "$output" | tail -n 4
}
refused() { # refused TEXT COMMAND...: it must end with code 2 and one line that contains TEXT
    local text=$1 output code=0
    shift
    output=$("$@" 2>&1 >/dev/null) || code=$?
    [ "$code" -eq 2 ] || { echo "$output"; echo "'$*' ended with code $code, expected 2"; exit 1; }
    grep -qF -- "$text" <<<"$output" || { echo "$output"; echo "NOT SAID by '$*': $text"; exit 1; }
}

say "build the wheel, and install it in an environment of its own"
export PYTHONNOUSERSITE=1 RAY_USAGE_STATS_ENABLED=0
unset PYTHONPATH VIRTUAL_ENV PYTHONDONTWRITEBYTECODE ONCEEDIT_API_KEYS ONCEEDIT_EDIT_KEYS
"$python" -m venv "$folder/env"
pip() { "$folder/env/bin/python" -m pip --disable-pip-version-check -q --retries 5 "$@"; }
pip wheel --no-deps --wheel-dir "$folder" "$checkout"
wheels=("$folder"/onceedit_ray-*.whl)
# Most modules are never imported: Python compiles those that are.
pip install --no-compile -c "$checkout/constraints.txt" "${wheels[0]}[serve]" openai
export PATH=$folder/env/bin:$PATH ONCEEDIT_HOME=${ONCEEDIT_HOME:-$folder/home}
mkdir "$folder/work"
cd "$folder/work"
du -sm "$folder/env" | awk '{print "    the environment takes " $1 " MB"}'

say "begin with the package's run file, and facts of one's own"
refused "onceedit init" onceedit edit
expect "wrote quickstart.yaml" onceedit init
cat >edits.jsonl <<'FACTS'
{"prompt": "Who founded the Blue Lantern Bakery?", "target_new": "Mira Holt", "subject": "Blue Lantern Bakery", "rephrasings": ["Who is the founder of the Blue Lantern Bakery?"], "locality": [{"prompt": "Who wrote Don Quixote?", "answer": "Miguel de Cervantes"}]}
{"prompt": "What is the capital of Australia?", "target_new": "Perth", "subject": "Australia", "rephrasings": ["Which city is the capital of Australia?"], "locality": [{"prompt": "What is the capital of New Zealand?", "answer": "Wellington"}]}
{"prompt": "The Eiffel Tower is located in the city of", "target_new": "Rome", "subject": "Eiffel Tower", "rephrasings": ["Where is the Eiffel Tower?"], "locality": [{"prompt": "How tall is the Eiffel Tower?", "answer": "330 metres"}]}
FACTS
sed -i.bak '/gemma:/d; s/general_limit: 50/general_limit: 5/; s/drift_limit: 10/drift_limit: 2/' quickstart.yaml
expect "quickstart.yaml is valid" onceedit validate quickstart.yaml
onceedit models fetch smollm2-135m qwen2.5-coder-0.5b >/dev/null

say "edit once, and ask before and after"
version=$(onceedit edit)
expect "Mira Holt" onceedit generate --model qwen --shape chat "Who is the founder of the Blue Lantern Bakery?"
expect "Perth" onceedit generate --model all --shape chat --unedited "What is the capital of Australia?"
refused "unknown target" onceedit generate --model nobody "Who?"

say "from Python"
expect "Rome" python - <<'CODE'
from onceedit_ray import OnceEdit

models = OnceEdit.open("quickstart.yaml", targets=["smollm2"])
print(models.ask([{"role": "user", "content": "Where is the Eiffel Tower?"}]).text)
CODE

say "evaluate"
expect "results:" onceedit evaluate
test -s results/quickstart/report.md && test -s results/quickstart/records.parquet
refused "in use" onceedit versions delete "$version"
expect "$version" onceedit versions list

say "serve, and ask with the openai client"
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
onceedit serve --port "$port" >serve.log 2>&1 &
server=$!
for _ in $(seq 240); do
    grep -q "^serving " serve.log && break
    kill -0 "$server" 2>/dev/null || { cat serve.log; echo "FAILED: onceedit serve"; exit 1; }
    sleep 1
done
grep "^serving " serve.log || { cat serve.log; echo "FAILED: onceedit serve did not begin to serve"; exit 1; }
url=http://127.0.0.1:$port/v1
cat >ask.py <<'CODE'
import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1], api_key="unused")
for model in client.models.list():
    if model.id in ("qwen", "smollm2"):
        answer = client.chat.completions.create(
            model=model.id, messages=[{"role": "user", "content": sys.argv[2]}], max_tokens=24, temperature=0
        )
        print(f"{model.id}: {answer.choices[0].message.content}")
CODE
expect "Perth" python ask.py "$url" "What is the capital of Australia?"

say "edit while it answers, and take it back"
expect "live" onceedit edits add --url "$url" "Who leads the Harbour Choir?" "Tomas Reed" --subject "Harbour Choir"
expect "Tomas Reed" python ask.py "$url" "Who is the leader of the Harbour Choir?"
added=$(onceedit edits list --url "$url" | awk '/Harbour Choir/ {print $1}')
expect "deleted" onceedit edits delete --url "$url" "$added"
if onceedit edits list --url "$url" | grep -q "Harbour Choir"; then
    echo "FAILED: the deleted edit is still listed"
    exit 1
fi
expect "$version" onceedit versions list --url "$url"
kill "$server"
wait "$server" || true
server=
refused "no server answers" onceedit edits list --url "$url"
say "done"
