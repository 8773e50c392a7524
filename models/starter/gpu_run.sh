#!/usr/bin/env bash
# Trains a starter model on a machine that is rented by the minute, has no network, and takes and gives little at a time.
#
#   gpu_run.sh pack CORPUS PIECES          here: the corpus, compressed, in pieces of at most PIECE_BYTES
#   gpu_run.sh step PIECES WORK OUT        there: takes what lies in PIECES, does what can be done in STEP_SECONDS
#   gpu_run.sh rehearse CORPUS DIR         here: all of it with the size "tiny", a piece a step, on the CPU
#
# A step is called again and again, with the next piece or with none, until it says "done": it takes up whatever a step
# before it left in WORK. Training starts with the last piece, and ends well after MINUTES of training in all. OUT then
# holds the card, the weights in parts of at most 15 MB, the log and the plot: less than 60 MB for the size "starter".
set -euo pipefail

SIZE=${SIZE:-starter}
MINUTES=${MINUTES:-22}
STEP_SECONDS=${STEP_SECONDS:-540}
PIECE_BYTES=${PIECE_BYTES:-58000000}
PYTHON=${PYTHON:-python3}
ROOT=$(cd "$(dirname "$0")/../.." && pwd)

starcite() {
    (cd "$ROOT" && exec timeout --signal=TERM --kill-after=60 "$STEP_SECONDS" \
        "$PYTHON" -c 'import sys; from lsp_server.cli import main; sys.exit(main())' "$@")
}

pack() { # CORPUS PIECES
    rm -rf "$2" && mkdir -p "$2"
    tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$1" corpus.json train heldout |
        xz --threads=0 -6 | split --numeric-suffixes --suffix-length=3 --bytes="$PIECE_BYTES" - "$2/corpus.tar.xz."
    (cd "$2" && sha256sum corpus.tar.xz.* >SHA256SUMS)
    ls -l "$2"
}

# Unpacks the corpus if all of its pieces are here; returns 1 if some are missing, exits if one is damaged.
unpack() { # PIECES WORK
    mkdir -p "$2/pieces"
    cp "$1"/* "$2/pieces/"
    local name
    for name in $(awk '{print $2}' "$2/pieces/SHA256SUMS"); do
        [ -e "$2/pieces/$name" ] || { echo "waiting for $name"; return 1; }
    done
    (cd "$2/pieces" && sha256sum --quiet --check SHA256SUMS) || { echo "a piece is damaged: send it again" >&2; exit 2; }
    mkdir -p "$2/corpus.new"
    cat "$2"/pieces/corpus.tar.xz.* | tar --extract --xz -C "$2/corpus.new"
    mv "$2/corpus.new" "$2/corpus"
}

step() { # PIECES WORK OUT
    mkdir -p "$2" "$3"
    local work out status=0
    work=$(cd "$2" && pwd) out=$(cd "$3" && pwd)
    [ -d "$work/corpus" ] || { rm -rf "$work/corpus.new" && unpack "$1" "$work"; } || return 0
    starcite train --size "$SIZE" --corpus "$work/corpus" --out "$work/model" --time-limit "$MINUTES" || status=$?
    cp "$work/model/log.jsonl" "$out/" 2>/dev/null || true
    case $status in
    0) ;;
    124 | 130) tail -n 1 "$out/log.jsonl"; echo "saved; call the next step"; return 0 ;;
    *) return $status ;;
    esac
    sed -n 's/^parts = \["\(.*\)"\]$/\1/p' "$work/model/$SIZE.toml" | sed 's/", "/\n/g' |
        while read -r part; do cp "$work/model/$part" "$out/"; done
    cp "$work/model/$SIZE.toml" "$work/model/loss.svg" "$out/"
    echo "done: starcite models add $out/$SIZE.toml"
}

rehearse() { # CORPUS DIR
    SIZE=tiny MINUTES=${REHEARSAL_MINUTES:-2}
    pack "$1" "$2/pieces"
    local piece
    for piece in "$2"/pieces/corpus.tar.xz.*; do
        rm -rf "$2/sent" && mkdir -p "$2/sent" && cp "$piece" "$2/pieces/SHA256SUMS" "$2/sent/"
        step "$2/sent" "$2/work" "$2/out"
    done
    until [ -e "$2/out/tiny.toml" ]; do step "$2/sent" "$2/work" "$2/out"; done
}

case "${1:-}:$#" in
pack:3 | rehearse:3 | step:4) "$@" ;;
*) sed -n '2,11p' "$0" >&2; exit 2 ;;
esac
