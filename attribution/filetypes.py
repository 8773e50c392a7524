"""Which files are source code, by their names."""

from __future__ import annotations


def _words(table: str) -> frozenset[str]:
    return frozenset(table.split())


SOURCE_SUFFIXES = _words("""
    .py .pyi .pyx .pxd .pxi .ipy .js .jsx .mjs .cjs .ts .tsx .mts .cts .vue .svelte .astro .coffee .c .h .cc
    .cpp .cxx .c++ .hh .hpp .hxx .h++ .inl .ipp .tpp .ino .m .mm .cu .cuh .cl .hip .java .kt .kts .scala .sc
    .groovy .gradle .clj .cljs .cljc .go .rs .swift .d .zig .nim .nims .v .vh .sv .svh .vhd .vhdl .cs .csx .vb
    .fs .fsi .fsx .rb .rake .gemspec .erb .php .phtml .pl .pm .t .raku .lua .r .jl .dart .ex .exs .eex .heex
    .leex .erl .hrl .hs .lhs .elm .purs .ml .mli .mll .mly .re .rei .res .lisp .lsp .el .scm .ss .rkt .fnl .hy
    .tcl .sh .bash .zsh .fish .ksh .csh .ps1 .psm1 .psd1 .bat .cmd .awk .sed .sql .psql .plsql .ddl .hql .cypher
    .graphql .gql .proto .thrift .capnp .fbs .avdl .html .htm .xhtml .css .scss .sass .less .styl .xsl .xslt .xq
    .xquery .jinja .jinja2 .j2 .twig .liquid .mustache .hbs .ejs .pug .haml .slim .asm .s .nasm .ld .f .for .f77
    .f90 .f95 .f03 .f08 .pas .pp .dpr .ada .adb .ads .cob .cbl .cpy .abap .apex .cls .trigger .bas .vbs .ahk
    .au3 .applescript .sol .vy .move .cairo .wat .wast .ll .mlir .td .glsl .vert .frag .geom .comp .hlsl .fx
    .metal .wgsl .shader .gd .gdshader .cmake .mk .mak .make .am .ac .m4 .ninja .bzl .bazel .star .nix .tf .hcl
    .dhall .jsonnet .libsonnet .cue .rego .pkl .ron .y .yy .l .lex .g4 .peg .pest .tex .sty .sas .do .ado .stan
    .lp .pro .prolog .qml .qbs .vala .vapi .hx .as .mxml .feature .robot .spec .tla .lean .agda .idr .thy .dfy
    .smt2 .coq .vim .tmpl .toml
""")

DOCUMENTATION_SUFFIXES = _words("""
    .md .markdown .rst .txt .adoc .asciidoc .org .pod .rdoc
""")

SOURCE_NAMES = _words("""
    Makefile GNUmakefile makefile Dockerfile Containerfile Rakefile Gemfile Vagrantfile Jenkinsfile Justfile
    justfile CMakeLists.txt meson.build meson_options.txt BUILD WORKSPACE SConstruct SConscript Brewfile
    Procfile Tiltfile Earthfile configure.ac configure.in Kconfig Kbuild .bashrc .zshrc .profile .vimrc
""")

SKIPPED_FOLDERS = _words("""
    __pycache__ .git .hg .svn node_modules .tox .nox .mypy_cache .ruff_cache .pytest_cache
""")


def is_source(path: str, *, docs: bool) -> bool:
    """Return whether a path names source code, or documentation if that is asked for."""
    name = path.rpartition("/")[2]
    stem, dot, ending = name.rpartition(".")
    suffix = dot + ending.lower() if stem else ""
    return suffix in SOURCE_SUFFIXES or name in SOURCE_NAMES or (docs and suffix in DOCUMENTATION_SUFFIXES)


def is_skipped_folder(path: str) -> bool:
    """Return whether a path lies in a folder that holds no source of its own (caches, version control, packages)."""
    return not SKIPPED_FOLDERS.isdisjoint(path.split("/"))
